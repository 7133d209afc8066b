"""Trials that will lose are stopped: through HTTP on the simulator, and over a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from byhand import put, restarted, run_to_end, server, trials
from optuna.trial import TrialState as OptunaState
from waiting import wait_for

from fixnorm_core.spec import JobSpec
from fixnorm_core.tuning.attributes import PREDICTED, PRUNED_BECAUSE
from service.database.rows import AttemptState
from service.jobs import repository
from service.schemas import JobState, TrialState
from service.settings import Settings

JOBS = "/api/v1/jobs"


@pytest.fixture
def job(job: dict[str, Any]) -> dict[str, Any]:
    """A job that meets many losing points: they are proposed at random."""
    search = job["search"] | {"sampler": "qmc", "pruner": "curve"}
    budget = {"max_trials": 10, "confirm_runs": 2, "stop_early": False}
    return job | {"search": search, "budget": budget}


def submit(http: httpx.Client, job: dict[str, Any]) -> str:
    answer = http.post(JOBS, json=job)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_trials_that_will_lose_are_stopped_for_a_reason_charged_to_the_budget_and_their_epochs_reported(
    http: httpx.Client, job: dict[str, Any]
) -> None:
    view = wait_for(http, submit(http, job))
    assert view.state is JobState.SUCCEEDED, view.reason
    shown = {trial["number"]: trial for trial in http.get(f"{JOBS}/{view.id}/trials").json()}
    stopped = [trial for trial in shown.values() if trial["state"] == TrialState.PRUNED]
    assert stopped
    assert all("chance to end above the best so far" in trial["reason"] for trial in stopped)
    assert all(0 < len(trial["curve"]) < trial["epochs"] for trial in stopped)
    assert {(trial["validation_accuracy"], trial["kind"]) for trial in stopped} == {(None, "search")}
    assert view.progress.finished == view.progress.max_trials == len(shown) == 10
    assert view.progress.pruned == len(stopped)
    best = view.best
    assert best is not None
    assert {shown[number]["state"] for number in best.trials} == {TrialState.COMPLETE}
    assert best.epochs_saved == sum(trial["epochs"] - len(trial["curve"]) for trial in stopped)
    assert best.report is not None
    text = Path(best.report).read_text(encoding="utf-8")
    assert f"| epochs saved | {best.epochs_saved}, by stopping trials that would have lost |" in text
    assert text.count("pruned its chance to end above") == len(stopped)


def test_where_no_first_point_is_known_short_runs_come_first_and_none_is_recommended(
    http: httpx.Client, job: dict[str, Any]
) -> None:
    below_the_default_start = {"lr": [1e-4, 1e-2], "fc_norm": [0.25, 16.0]}
    search = {"method": "fixnorm", "pruner": "screening", "space": below_the_default_start}
    budget = {"max_trials": 6, "confirm_runs": 1}
    view = wait_for(http, submit(http, job | {"search": search, "budget": budget}))
    assert view.state is JobState.SUCCEEDED, view.reason
    shown = sorted(http.get(f"{JOBS}/{view.id}/trials").json(), key=lambda trial: trial["number"])
    short, whole = shown[:4], shown[4:]
    assert {trial["state"] for trial in short} == {TrialState.PRUNED}
    assert {trial["state"] for trial in whole} == {TrialState.COMPLETE}
    assert all("which train for" in trial["reason"] for trial in short)
    rates = [trial["params"]["lr"] for trial in short]
    assert rates == sorted(rates)
    assert rates[-1] > 20 * rates[0]
    assert view.best is not None
    assert set(view.best.trials) <= {trial["number"] for trial in whole}


def test_without_the_switch_every_trial_goes_to_its_end(http: httpx.Client, job: dict[str, Any]) -> None:
    search = {name: value for name, value in job["search"].items() if name != "pruner"}
    view = wait_for(http, submit(http, job | {"search": search}))
    states = {trial["state"] for trial in http.get(f"{JOBS}/{view.id}/trials").json()}
    assert TrialState.PRUNED not in states
    assert view.best is not None
    assert view.best.epochs_saved == 0


def test_an_unknown_pruner_is_refused_with_those_there_are(http: httpx.Client, job: dict[str, Any]) -> None:
    answer = http.post(JOBS, json=job | {"search": job["search"] | {"pruner": "median"}})
    assert answer.status_code == 422
    assert "search.pruner" in answer.json()["detail"]
    assert "curve" in answer.json()["detail"]


def fixnorm_job(job: dict[str, Any]) -> JobSpec:
    """Points far apart at first, then a function of the history: a restart must meet the same ones."""
    start = {"lr": 0.01, "fc_norm": 2.0}
    search = job["search"] | {"sampler": "fixnorm", "start": start}
    return JobSpec.model_validate(job | {"search": search})


@pytest.mark.parametrize("ticks", [17, 44])
def test_a_restart_stops_the_same_trials_at_the_same_points(
    settings: Settings, job: dict[str, Any], tmp_path: Path, ticks: int
) -> None:
    spec = fixnorm_job(job)
    with server(settings.model_copy(update={"state_dir": tmp_path / "undisturbed"})) as service:
        undisturbed = put(service, spec)
        assert run_to_end(service, undisturbed) is JobState.SUCCEEDED
        expected = [(trial.params, trial.state) for trial in trials(service, undisturbed)]
    assert OptunaState.PRUNED in [state for _, state in expected]
    with restarted(settings, spec, ticks=ticks) as (service, job_id):
        assert [(trial.params, trial.state) for trial in trials(service, job_id)] == expected


class Crash(BaseException):
    """The process dies here."""


def die(*_: object, **__: object) -> None:
    raise Crash


def attempts_at(service: Any, job_id: str, number: int) -> list[str]:
    with service.runtime.database.read() as session:
        rows = repository.attempts_of(session, [job_id])
    return [row.state for row in rows if row.trial_number == number]


@pytest.mark.parametrize(
    ("where", "before", "after"),
    [
        ("service.studies.studies.StudyHandle.tell_pruned", ["PRUNED"], ["PRUNED"]),
        ("worker.simulator.SimulatorBackend.stop", ["RUNNING"], ["LOST", "PRUNED"]),
    ],
)
def test_a_server_that_dies_while_it_stops_a_trial_finds_it_stopped_and_does_not_train_on(
    settings: Settings, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, where: str, before: list[str], after: Any
) -> None:
    spec = JobSpec.model_validate(job)
    with server(settings) as service:
        job_id = put(service, spec)
        with monkeypatch.context() as patched:
            patched.setattr(where, die)
            with pytest.raises(Crash):
                run_to_end(service, job_id)
        (dying,) = [trial for trial in trials(service, job_id) if trial.state is OptunaState.RUNNING]
        assert attempts_at(service, job_id, dying.number) == before
    with server(settings) as service:
        service.dispatcher.recover()
        service.dispatcher.tick()
        found = trials(service, job_id)[dying.number]
        assert found.state is OptunaState.PRUNED
        assert found.intermediate_values == dying.intermediate_values
        assert found.user_attrs[PREDICTED] == dying.user_attrs[PREDICTED]
        assert attempts_at(service, job_id, dying.number) == after
        assert run_to_end(service, job_id) is JobState.SUCCEEDED


def test_a_trial_that_reached_its_end_while_it_was_to_stop_counts_as_complete(
    settings: Settings, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(settings) as service:
        monkeypatch.setattr("worker.simulator.SimulatorBackend.stop", lambda *_: None)
        job_id = put(service, JobSpec.model_validate(job))
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        found = trials(service, job_id)
        assert {trial.state for trial in found} == {OptunaState.COMPLETE}
        assert any(PRUNED_BECAUSE in trial.user_attrs for trial in found)
        with service.runtime.database.read() as session:
            rows = repository.attempts_of(session, [job_id])
        assert {row.state for row in rows} == {AttemptState.COMPLETE}
