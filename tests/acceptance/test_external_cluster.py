"""A server on a Ray cluster that was there before it: killed, stopped, and left alone by the cluster."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import RayHead, started_head
from processes import ServerProcess

from fixnorm_core.spec import BudgetSpec, DataSpec, JobSpec, ModelSpec, TrainingSpec
from service.client import Client
from service.database.engine import Database
from service.events.records import events_after
from service.schemas import TERMINAL_STATES, EventKind, JobState, TrialState, TrialView

pytestmark = pytest.mark.ray

EPOCHS = 30


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with started_head(cpus=1) as head:
        yield head


@pytest.fixture
def server(head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    for name, value in head.environment.items():
        monkeypatch.setenv(name, value)
    made = ServerProcess("server", tmp_path, state_dir=tmp_path / "state", backend="ray", retry_seconds=1)
    with made.running() as server:
        yield server


def spec() -> JobSpec:
    return JobSpec(
        model=ModelSpec(options={"width": 8}),
        data=DataSpec(train_limit=400),
        training=TrainingSpec(epochs=EPOCHS),
        budget=BudgetSpec(max_trials=2, parallel_trials=1, confirm_runs=1, stop_early=False),
    )


def until(condition: Callable[[], bool], what: str, *, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.2)


def is_training(client: Client, job_id: str, number: int) -> bool:
    """Whether a trial has told of an epoch and has many to come."""
    assert client.job(job_id).state not in TERMINAL_STATES
    trials = [trial for trial in client.trials(job_id) if trial.number == number]
    return any(trial.state is TrialState.RUNNING and 0 < len(trial.curve) < trial.epochs // 2 for trial in trials)


Told = list[tuple[dict[str, float], float | None, tuple[float, ...]]]


def told(trials: list[TrialView]) -> Told:
    return [(trial.params, trial.validation_accuracy, tuple(trial.curve)) for trial in trials]


@pytest.fixture(scope="module")
def undisturbed() -> Callable[[Client], Told]:
    """What a job told that nothing happened to, on the first server that is asked for one."""
    found: list[Told] = []

    def of(client: Client) -> Told:
        if not found:
            job = client.wait(client.submit(spec()).id)
            assert job.state is JobState.SUCCEEDED, job.reason
            found.append(told(client.trials(job.id)))
        return found[0]

    return of


def epochs_told(state_dir: Path, job_id: str) -> list[tuple[int | None, int | None]]:
    """Trial and epoch of every event that told of one."""
    database = Database.open(f"sqlite:///{state_dir / 'fixnorm.db'}")
    with database.read() as session:
        events = events_after(session, job_id, 0, limit=10_000)
    database.close()
    return [(event.trial, event.epoch) for event in events if event.kind is EventKind.TRIAL_EPOCH]


def test_the_same_attempts_go_on_when_the_server_is_killed_and_when_it_is_stopped(
    head: RayHead, server: ServerProcess, undisturbed: Callable[[Client], Told], tmp_path: Path
) -> None:
    with Client(server.url) as client:
        job_id = client.submit(spec()).id
    for number, sign in enumerate((signal.SIGKILL, signal.SIGTERM)):
        with Client(server.url) as client:
            until(lambda client=client, number=number: is_training(client, job_id, number), f"trial {number} trains")
        slots = head.slots()
        assert len(slots) == 1
        if sign is signal.SIGTERM:
            server.stop()
        else:
            server.send(sign)
        assert head.slots() == slots
        server.start()
        server.wait()
        assert head.slots() == slots
    with Client(server.url) as client:
        view = client.wait(job_id)
        assert view.state is JobState.SUCCEEDED, view.reason
        trials = client.trials(job_id)
        assert [trial.attempts for trial in trials] == [1, 1]
        assert sorted(epochs_told(tmp_path / "state", job_id)) == [
            (number, epoch) for number in (0, 1) for epoch in range(1, EPOCHS + 1)
        ]
        assert undisturbed(client) == told(trials)
    assert server.log.count("attempt.adopted") == 2


def test_a_cluster_that_dies_is_told_of_and_when_it_is_back_the_job_goes_on_as_the_undisturbed_one(
    head: RayHead, server: ServerProcess, undisturbed: Callable[[Client], Told]
) -> None:
    with Client(server.url) as client:
        job_id = client.submit(spec()).id
        until(lambda: is_training(client, job_id, 0), "trial 0 trains")
        head.kill()
        address = head.environment["RAY_ADDRESS"]
        said = f"the Ray cluster at {address} has not answered since"
        until(lambda: said in client.job(job_id).reason, "the job says so", seconds=90)
        assert client.job(job_id).state is JobState.RUNNING
        head.start()
        view = client.wait(job_id)
        assert view.state is JobState.SUCCEEDED, view.reason
        trials = client.trials(job_id)
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
        assert undisturbed(client) == told(trials)
