"""Jobs that are given more trials: while they run, when they are paused, and after they have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from byhand import attempts, points, put, run_to_end, server, state_of, trials
from optuna.trial import TrialState
from serving import serving
from sqlalchemy import select
from streaming import read_events
from typer.testing import CliRunner
from waiting import wait_for

from fixnorm_core.spec import JobSpec, SamplerName
from fixnorm_core.tuning.attributes import CONFIRM, KIND
from service.cli.main import app
from service.client import Client
from service.composition import Service, build
from service.database.rows import DeliveryRow, JobRow
from service.dispatch.job_runner import JobRunner
from service.jobs import repository
from service.jobs.amended import spec_of
from service.jobs.reopening import extend
from service.jobs.verbs import PAUSE, RESUME, STOP, ask
from service.problems import VerbImpossible
from service.schemas import TERMINAL_STATES, EventKind, JobState, JobView
from service.settings import Settings
from service.webhooks.deliveries import message

JOBS = "/api/v1/jobs"

pytestmark = pytest.mark.both_databases


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    budget = {"max_trials": 4, "confirm_runs": 1, "parallel_trials": 2, "stop_early": False}
    return JobSpec.model_validate(job | {"budget": budget, "search": job["search"] | {"sampler": "random"}})


def more(service: Service, job_id: str, count: int, *, key: str | None = None) -> None:
    """Asks as the endpoint does, without the word to the dispatcher of this server."""
    extend(job_id, count, database=service.runtime.database, key=key, now=service.runtime.now())


def go_on(service: Service, job_id: str) -> JobRow:
    service.dispatcher.wake()
    run_to_end(service, job_id)
    return stored(service, job_id)


def stored(service: Service, job_id: str) -> JobRow:
    with service.runtime.database.read() as session:
        job = repository.find_job(session, job_id)
    assert job is not None
    return job


def finished(service: Service, job_id: str) -> int:
    states = [trial.state for trial in trials(service, job_id)]
    assert TrialState.RUNNING not in states
    return states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED)


def kinds(service: Service, job_id: str) -> list[str]:
    return ["confirm" if trial.user_attrs.get(KIND) == CONFIRM else "search" for trial in trials(service, job_id)]


def test_a_job_that_runs_goes_on_to_its_new_budget_as_if_it_had_been_submitted_with_it(
    settings: Settings, spec: JobSpec
) -> None:
    larger = spec.model_copy(update={"budget": spec.budget.model_copy(update={"max_trials": 7, "parallel_trials": 1})})
    small = larger.model_copy(update={"budget": larger.budget.model_copy(update={"max_trials": 4})})
    with server(settings) as service:
        whole, job_id = put(service, larger), put(service, small)
        for _ in range(3):
            service.dispatcher.tick()
        more(service, job_id, 3)
        run_to_end(service, whole)
        job = go_on(service, job_id)
        assert (job.state, finished(service, job_id), job.round) == (JobState.SUCCEEDED, 7, 0)
        assert points(service, job_id) == points(service, whole)
        assert JobSpec.from_stored(job.spec) == small  # an idempotency key belongs to it
        assert spec_of(job) == larger


def test_a_job_that_has_ended_searches_on_from_its_trials_and_confirms_what_is_the_best_by_then(
    settings: Settings, spec: JobSpec
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        first, before = stored(service, job_id), points(service, job_id)
        assert kinds(service, job_id) == ["search"] * 3 + ["confirm"]
        more(service, job_id, 5)
        job = stored(service, job_id)
        assert (job.state, job.result, job.ended_at, job.stop_reason) == (JobState.RUNNING, first.result, None, None)
        assert job.reason == "extended by 5 trials to 9 by request"
        job = go_on(service, job_id)
        assert job.state == JobState.SUCCEEDED, job.reason
        assert points(service, job_id)[:4] == before
        assert kinds(service, job_id)[4:8] == ["search"] * 4
        assert finished(service, job_id) in (8, 9)  # the last one confirms another point, if another is the best by now
        assert job.started_at == first.started_at
        assert job.result is not None
        assert job.result["confirmed"]
        assert job.result["test"] is not None
        assert first.ended_at is not None
        assert job.ended_at is not None
        assert job.ended_at > first.ended_at


def test_twenty_extensions_never_give_more_trials_than_the_budget_has(settings: Settings, spec: JobSpec) -> None:
    with server(settings) as service:
        job_id, budget = put(service, spec), 4
        for turn in range(20):
            for _ in range(turn % 7):
                service.dispatcher.tick()
            more(service, job_id, 1 + turn % 3)
            budget += 1 + turn % 3
            service.dispatcher.wake()
            if turn in (6, 13):
                job = go_on(service, job_id)
                assert job.state == JobState.SUCCEEDED, job.reason
                assert finished(service, job_id) <= budget
        job = go_on(service, job_id)
        assert spec_of(job).budget.max_trials == budget
        assert budget - 1 <= finished(service, job_id) <= budget
        counted = [row for row in attempts(service, job_id) if row.kind == "train" and row.state == "COMPLETE"]
        assert len(counted) == len({row.trial_number for row in counted}) == finished(service, job_id)


@pytest.mark.parametrize(
    "limits", [{"target_accuracy": 0.01}, {"max_trials_without_progress": 1}, {"stop_early": True, "tolerance": 0.5}]
)
def test_what_ended_the_first_search_does_not_end_the_second_at_once(
    settings: Settings, spec: JobSpec, limits: dict[str, Any]
) -> None:
    search = spec.search.model_copy(
        update={"sampler": SamplerName.FIXNORM if "stop_early" in limits else SamplerName.RANDOM}
    )
    budget = spec.budget.model_copy(update={"max_trials": 12, "parallel_trials": 1, **limits})
    with server(settings) as service:
        job_id = put(service, spec.model_copy(update={"budget": budget, "search": search}))
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        before = finished(service, job_id)
        assert before < 12
        more(service, job_id, 3)
        job = go_on(service, job_id)
        assert job.state == JobState.SUCCEEDED, job.reason
        assert finished(service, job_id) > before


@pytest.mark.parametrize("ticks", [1, 6, 11, 16, 23, 30])
def test_an_extension_is_never_lost_wherever_it_falls_and_whatever_crashes_then(
    settings: Settings, spec: JobSpec, ticks: int
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        for _ in range(ticks):
            service.dispatcher.tick()
        more(service, job_id, 2)  # and gone, before the dispatcher has seen it
    with server(settings) as service:
        service.dispatcher.recover()
        job = go_on(service, job_id)
        assert job.state == JobState.SUCCEEDED, job.reason
        assert 5 <= finished(service, job_id) <= 6
        assert kinds(service, job_id).count("search") >= 4


def test_an_extension_between_a_decision_and_its_effect_is_not_overtaken(
    settings: Settings, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = JobRunner._finish
    with server(settings) as service:
        job_id = put(service, spec)

        def too_late(*arguments: Any, **options: Any) -> None:
            monkeypatch.undo()
            more(service, job_id, 3)
            finish(*arguments, **options)

        monkeypatch.setattr(JobRunner, "_finish", too_late)
        job = go_on(service, job_id)
        assert job.state == JobState.SUCCEEDED
        assert spec_of(job).budget.max_trials == 7
        assert kinds(service, job_id).count("search") >= 5


def test_a_paused_job_stays_paused_with_its_new_budget(settings: Settings, spec: JobSpec) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        service.dispatcher.tick()
        ask(PAUSE, job_id, database=service.runtime.database, now=service.runtime.now())
        more(service, job_id, 2)
        service.dispatcher.wake()
        for _ in range(100):
            service.dispatcher.tick()
        assert (state_of(service, job_id), len(trials(service, job_id))) == (JobState.PAUSED, 2)
        ask(RESUME, job_id, database=service.runtime.database, now=service.runtime.now())
        go_on(service, job_id)
        assert finished(service, job_id) == 6


def test_a_job_that_was_cancelled_in_the_queue_goes_back_to_it(settings: Settings, spec: JobSpec) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        with service.runtime.database.write.begin() as session:
            repository.request_cancel(session, job_id)
        assert run_to_end(service, job_id) is JobState.CANCELLED
        more(service, job_id, 1)
        assert state_of(service, job_id) is JobState.QUEUED
        job = go_on(service, job_id)
        assert (job.state, finished(service, job_id)) == (JobState.SUCCEEDED, 5)


def test_a_job_whose_extension_is_cancelled_keeps_the_result_that_it_had(settings: Settings, spec: JobSpec) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        first = stored(service, job_id).result
        assert first is not None
        for _ in range(2):
            more(service, job_id, 4)
            service.dispatcher.wake()
            for _ in range(3):
                service.dispatcher.tick()
            assert stored(service, job_id).result == first
            with service.runtime.database.write.begin() as session:
                repository.request_cancel(session, job_id)
            job = go_on(service, job_id)
            assert (job.state, job.result) == (JobState.CANCELLED, first)


def test_a_job_that_is_stopping_or_being_cancelled_cannot_be_extended(settings: Settings, spec: JobSpec) -> None:
    with server(settings) as service:
        stopping, cancelling = put(service, spec), put(service, spec)
        ask(STOP, stopping, database=service.runtime.database, now=service.runtime.now())
        with service.runtime.database.write.begin() as session:
            repository.request_cancel(session, cancelling)
        for job_id, why in ((stopping, "starts no trials any more"), (cancelling, "being cancelled")):
            with pytest.raises(VerbImpossible, match=f"{why}, so it cannot be extended"):
                more(service, job_id, 1)
            assert spec_of(stored(service, job_id)) == spec


def test_the_message_of_the_first_end_tells_of_the_first_end_and_the_second_end_has_its_own(
    settings: Settings, spec: JobSpec
) -> None:
    with server(settings) as service:
        job_id = put(service, spec.model_copy(update={"webhook": "http://127.0.0.1:9/"}))
        run_to_end(service, job_id)
        first = stored(service, job_id).result
        more(service, job_id, 4)
        go_on(service, job_id)
        with service.runtime.database.read() as session:
            rows = session.scalars(select(DeliveryRow).order_by(DeliveryRow.number)).all()
            told = [httpx.Response(200, content=message(session, row)).json()["data"] for row in rows]
        assert [each["state"] for each in told] == ["SUCCEEDED", "SUCCEEDED"]
        assert [each["best"] for each in told] == [first, stored(service, job_id).result]
        assert told[0] != told[1]


def test_a_job_is_extended_by_request_its_stream_goes_on_and_a_request_sent_twice_counts_once(
    settings: Settings, spec: JobSpec
) -> None:
    service = build(settings)
    with serving(service.app) as url, Client(url) as client, httpx.Client(base_url=url, timeout=30) as http:
        job_id = client.submit(spec).id
        wait_for(http, job_id)
        last = list(read_events(http, job_id))[-1]
        assert last.kind is EventKind.JOB_ENDED
        headers = {"Idempotency-Key": "mine"}
        for _ in range(2):
            answer = http.post(f"{JOBS}/{job_id}/extend", json={"trials": 2}, headers=headers).raise_for_status()
            assert JobView.model_validate(answer.json()).spec.budget.max_trials == 6
        view = wait_for(http, job_id)
        assert (view.state, view.progress.max_trials) == (JobState.SUCCEEDED, 6)
        assert client.extend(job_id, 1).state not in TERMINAL_STATES
        assert wait_for(http, job_id).progress.max_trials == 7
        numbers = [event.number for event in read_events(http, job_id, after=last.number)]
        assert numbers == list(range(last.number + 1, numbers[-1] + 1))
        kinds = [event.kind for event in read_events(http, job_id)]
        assert kinds.count(EventKind.JOB_ENDED) == 3
        assert len(kinds) == numbers[-1]
        assert http.get(f"{JOBS}/{job_id}/weights").status_code == 409  # the simulator keeps none
        assert http.get(f"{JOBS}/{job_id}/report").status_code == 200


def test_while_a_job_is_being_extended_the_result_that_it_had_can_be_read_and_fetched(
    settings: Settings, spec: JobSpec, tmp_path: Path
) -> None:
    service = build(settings)
    with serving(service.app) as url, Client(url) as client, httpx.Client(base_url=url, timeout=30) as http:
        job_id = client.submit(spec).id
        ended = wait_for(http, job_id)
        report = client.report(job_id)
        assert (ended.former, ended.best is not None) == (None, True)
        client.extend(job_id, 2000)
        client.pause(job_id)
        view = client.job(job_id)
        assert view.state is JobState.PAUSED
        assert view.former == ended.best
        assert view.best is not None
        assert (view.best.report, view.best.test) == (None, None)
        assert client.report(job_id) == report
        assert f"/jobs/{job_id}/report.html" in http.get(f"/jobs/{job_id}").text
        assert client.summary(job_id).params == ended.best.params  # type: ignore[union-attr]
        shown = CliRunner().invoke(app, ["show", job_id, "--server", url], catch_exceptions=False).stdout
        assert "its weights and report stay until the job ends again" in shown
        CliRunner().invoke(app, ["export", job_id, str(tmp_path / "out"), "--server", url], catch_exceptions=False)
        assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8") == report
        client.stop(job_id)
        again = client.wait(job_id)
        assert again.former is None
        assert again.best is not None
        assert again.best.test is not None
        assert client.report(job_id) != report


@pytest.mark.parametrize("body", [{}, {"trials": 0}, {"trials": "many"}, {"trials": 1, "gpus": 3}])
def test_an_extension_by_nothing_is_refused(http: httpx.Client, spec: JobSpec, body: dict[str, Any]) -> None:
    job_id = http.post(JOBS, json=spec.model_dump(mode="json")).json()["id"]
    assert http.post(f"{JOBS}/{job_id}/extend", json=body).status_code == 422
    assert wait_for(http, job_id).progress.max_trials == 4
    assert http.post(f"{JOBS}/job-nope/extend", json={"trials": 1}).status_code == 404
