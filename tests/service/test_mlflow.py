"""MLflow: runs of jobs and trials in a real database of its own, each once, and no job that minds when it is away."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from byhand import put, run_to_end, server, trials
from serving import serving
from waiting import wait_for

from fixnorm_core.spec import JobSpec
from service import opening
from service.composition import Service, build
from service.jobs import repository
from service.opening import CannotStart
from service.schemas import JobState
from service.settings import Settings
from service.trackers import positions
from service.trackers.contracts import Tracked
from service.trackers.follower import Follower
from worker.contracts import Backend

pytest.importorskip("mlflow", reason="needs the extra mlflow")
# MLflow's own use of SQLAlchemy, and what it leaves open
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.filterwarnings("default::pytest.PytestWarning")]


@pytest.fixture
def told(settings: Settings, tmp_path: Path) -> Settings:
    """A server's settings with a database of MLflow's, and without TensorBoard."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return settings.model_copy(update={"tensorboard": False, "mlflow_tracking_uri": uri, "mlflow_experiment": "tuned"})


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(job | {"budget": {"max_trials": 3, "confirm_runs": 1, "stop_early": False}})


def follower(service: Service, settings: Settings, clock: Any = time.monotonic) -> Follower:
    (tracker,) = opening._trackers(settings)
    return Follower(tracker, service.runtime.database, lambda: True, clock)


def runs(settings: Settings) -> tuple[Any, list[Any]]:
    """MLflow's client, and all runs of the experiment."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=settings.mlflow_tracking_uri)
    experiment = client.get_experiment_by_name("tuned")
    return client, list(client.search_runs([experiment.experiment_id]))


def test_a_job_is_a_run_and_its_trials_are_runs_below_it_each_step_once_over_crashes(
    told: Settings, spec: JobSpec
) -> None:
    job_id = ""
    for _ in range(2):  # a server that is gone, with a follower that has stored nothing of how far it was
        with server(told) as service:
            job_id = job_id or put(service, spec)
            service.dispatcher.recover()
            early = follower(service, told)
            for _ in range(5):
                service.dispatcher.tick()
                early.look()
    with server(told) as service:
        service.dispatcher.recover()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        last = follower(service, told)
        while last.look():
            pass
        expected = trials(service, job_id)
        with service.runtime.database.read() as session:
            stored = repository.find_job(session, job_id)
        assert stored is not None
        assert stored.result is not None
        client, found = runs(told)
        (parent,) = [run for run in found if run.data.tags.get("fixnorm_tune.job") == job_id]
        below = {run.data.tags["fixnorm_tune.trial"]: run for run in found if run is not parent}
        assert sorted(below) == [f"{job_id}/{number}" for number in range(len(expected))]
        for trial in expected:
            run = below[f"{job_id}/{trial.number}"]
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.info.status == "FINISHED"
            assert {name: float(value) for name, value in run.data.params.items()} == trial.params
            history = client.get_metric_history(run.info.run_id, "validation_accuracy")
            curve = [(one.step, one.value) for one in sorted(history, key=lambda one: one.step)]
            assert curve == [(step, pytest.approx(value)) for step, value in sorted(trial.intermediate_values.items())]
            losses = client.get_metric_history(run.info.run_id, "train_loss")
            assert sorted(one.step for one in losses) == sorted(trial.intermediate_values)
        assert parent.info.status == "FINISHED"
        assert parent.data.params["model"] == spec.model.name
        assert parent.data.metrics["test_accuracy"] == pytest.approx(stored.result["test"]["accuracy"])
        assert parent.data.tags["best.trial"] == str(stored.result["weights_trial"])


def test_a_server_that_is_away_costs_the_job_nothing_and_is_told_of_once(
    told: Settings, spec: JobSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]  # nobody listens there in a moment
    away = told.model_copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{port}"})
    now, tries = [0.0], 0
    with server(away) as service:
        job_id = put(service, spec)
        telling = follower(service, away, clock=lambda: now[0])
        for _ in range(3):
            service.dispatcher.tick()
            assert telling.look() == 0
            assert telling.look() == 0  # it rests
            now[0] += 1000
            tries += 1
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert capfd.readouterr().err.count("tracker.failed") == 1
        back = follower(service, told)  # what was missed is told when it is there again
        while back.look():
            pass
    assert len(runs(told)[1]) == 4


class Stuck:
    """A tracker that answers nothing."""

    name = "tensorboard"  # so that it is told of a job from its first moment

    def __init__(self) -> None:
        self.asked, self.let_go = threading.Event(), threading.Event()

    def tell(self, *_: object) -> None:
        self.asked.set()
        self.let_go.wait(60)

    def close(self) -> None:
        pass


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    tracker = Stuck()
    monkeypatch.setattr(opening, "_trackers", lambda _: iter([tracker]))
    yield tracker
    tracker.let_go.set()


def test_a_tracker_that_hangs_holds_up_no_job(settings: Settings, job: dict[str, Any], stuck: Stuck) -> None:
    service = build(settings.model_copy(update={"epoch_seconds": 0.05}))
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=60) as http:
        job_id = http.post("/api/v1/jobs", json=job).json()["id"]
        assert stuck.asked.wait(60)
        assert wait_for(http, job_id).state is JobState.SUCCEEDED
        assert not stuck.let_go.is_set()


def test_without_the_package_a_server_says_what_to_install(told: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda _: None)
    with pytest.raises(CannotStart, match=r"mlflow.*\[mlflow\]"):
        build(told)


def test_a_run_that_somebody_deletes_is_made_anew(told: Settings, spec: JobSpec) -> None:
    now = [0.0]
    with server(told) as service:
        job_id = put(service, spec)
        telling = follower(service, told, clock=lambda: now[0])
        while not trials(service, job_id) or not telling.look():
            service.dispatcher.tick()
        client, found = runs(told)
        deleted = {run.info.run_id for run in found}
        for run_id in deleted:
            client.delete_run(run_id)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        for _ in range(5):
            telling.look()
            now[0] += 1000
        with service.runtime.database.read() as session:
            assert positions.behind(session, "mlflow") == []
    made = runs(told)[1]
    assert not deleted & {run.info.run_id for run in made}
    (parent,) = [run for run in made if run.data.tags.get("fixnorm_tune.job") == job_id]
    assert parent.info.status == "FINISHED"


class Choosy:
    """A tracker that takes all jobs but one."""

    name = "mlflow"

    def __init__(self) -> None:
        self.refused = ""
        self.told: list[str] = []

    def tell(self, job: Tracked, _events: object) -> None:
        if job.id == self.refused:
            raise ValueError("not this one")
        self.told.append(job.id)

    def close(self) -> None:
        pass


def test_a_job_that_cannot_be_told_holds_up_no_other(
    told: Settings, spec: JobSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker, now = Choosy(), [0.0]
    with server(told) as service:
        tracker.refused, other = put(service, spec), put(service, spec)
        telling = Follower(tracker, service.runtime.database, lambda: True, lambda: now[0])
        telling.look()
        assert tracker.told == []  # after a failure it rests
        for _ in range(20):
            now[0] += 2
            telling.look()
        assert set(tracker.told) == {other}
        assert capfd.readouterr().err.count("tracker.failed") == 1
        tracker.refused = ""
        now[0] += 1000
        telling.look()
        assert len(set(tracker.told)) == 2


@pytest.mark.parametrize("password", ["hush", "hu@sh", "hu/sh?x"])
def test_a_password_in_the_address_is_not_logged(
    told: Settings, spec: JobSpec, capfd: pytest.CaptureFixture[str], password: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]  # nobody listens there in a moment
    away = told.model_copy(update={"mlflow_tracking_uri": f"http://ann:{password}@127.0.0.1:{port}"})
    with server(away) as service:
        put(service, spec)
        follower(service, away).look()
    said = capfd.readouterr()
    assert "tracker.failed" in said.err
    assert f" at http://{'...' if '?' in password else f'127.0.0.1:{port}'}" in said.err
    assert password not in said.out + said.err
    assert "ann:" not in said.out + said.err


def test_what_the_backend_starts_gets_none_of_mlflows_variables(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    make = opening._backend

    def looking(*arguments: Any) -> Backend:
        seen.extend(os.environ)
        return make(*arguments)

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    monkeypatch.setattr(opening, "_backend", looking)
    build(settings).close()
    assert seen
    assert not [name for name in seen if name.startswith("MLFLOW_")]
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "hush"
