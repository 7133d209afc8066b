"""A Ray cluster and what may happen around it: a node dies, a server is suspended, nobody is there."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import RayHead, started_head
from processes import ServerProcess

from fixnorm_core.spec import BudgetSpec, DataSpec, JobSpec, ModelSpec, TrainingSpec
from service.client import Client
from service.database.engine import Database
from service.database.rows import AttemptRow, AttemptState
from service.events.records import events_after
from service.jobs.repository import attempts_of
from service.schemas import EventKind, JobState, TrialState
from worker.contracts import FailureKind


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with started_head(cpus=1) as head:
        yield head


@pytest.fixture
def cluster(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> RayHead:
    """Which servers that are started from now on join."""
    for name, value in head.environment.items():
        monkeypatch.setenv(name, value)
    return head


def spec(*, trials: int, parallel: int = 1, epochs: int = 60) -> JobSpec:
    return JobSpec(
        model=ModelSpec(options={"width": 8}),
        data=DataSpec(train_limit=400),
        training=TrainingSpec(epochs=epochs),
        budget=BudgetSpec(max_trials=trials, parallel_trials=parallel, confirm_runs=0, stop_early=False),
    )


def until(condition: Callable[[], bool], what: str, *, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.2)


def training(client: Client, job_id: str) -> set[int]:
    """The trials that have told of an epoch and have many to come."""
    running = [trial for trial in client.trials(job_id) if trial.state is TrialState.RUNNING]
    return {trial.number for trial in running if 0 < len(trial.curve) < trial.epochs // 2}


def stored(url: str, job_id: str) -> tuple[list[AttemptRow], list[tuple[int | None, int | None]]]:
    """A job's attempts, and trial and epoch of every event that told of one."""
    database = Database.open(url)
    with database.read() as session:
        rows = list(attempts_of(session, [job_id]))
        events = events_after(session, job_id, 0, limit=10_000)
    database.close()
    return rows, sorted((event.trial, event.epoch) for event in events if event.kind is EventKind.TRIAL_EPOCH)


@pytest.mark.ray
def test_when_a_node_dies_its_trial_goes_on_on_the_other_from_its_checkpoint_and_is_charged_to_nobody(
    cluster: RayHead, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    node = cluster.join("second", cpus=1)
    server = ServerProcess("server", tmp_path, state_dir=state, backend="ray", retry_seconds=1)
    server.start()
    try:
        server.wait()
        with Client(server.url) as client:
            assert {each.cpus for each in client.queue().nodes} == {1}
            assert "second" in {each.name for each in client.queue().nodes}
            job_id = client.submit(spec(trials=2, parallel=2, epochs=60)).id
            until(lambda: training(client, job_id) == {0, 1}, "a trial trains on each node")
            node.kill()
            until(lambda: len(client.queue().nodes) == 1, "the node is gone")
            view = client.wait(job_id)
            assert view.state is JobState.SUCCEEDED, view.reason
        rows, epochs = stored(f"sqlite:///{state / 'fixnorm.db'}", job_id)
        assert [(row.kind, row.state) for row in rows].count(("train", AttemptState.COMPLETE)) == 2
        (lost,) = [row for row in rows if row.state == AttemptState.FAILED]
        assert lost.failure == FailureKind.OUTAGE, lost.reason
        assert epochs == [(number, epoch) for number in (0, 1) for epoch in range(1, 61)]
    finally:
        server.stop()


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["suspended", "killed"])
def test_the_other_server_adopts_what_trains_and_one_that_wakes_up_tells_nothing_twice(
    cluster: RayHead, postgres_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    settings = {"database_url": postgres_url, "lease_seconds": 2, "backend": "ray"}
    servers = [ServerProcess(name, tmp_path, state_dir=tmp_path / "state", **settings) for name in ("first", "second")]
    epochs = 100
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait()
        leader, standby = sorted(servers, key=lambda server: not server.leads)
        with Client(standby.url) as client:
            job_id = client.submit(spec(trials=1, epochs=epochs)).id
            until(lambda: bool(training(client, job_id)), "a trial trains")
            slots = cluster.slots()
            leader.send(number)
            until(lambda: standby.leads, "the other one dispatches")
            assert cluster.slots() == slots
            if number is signal.SIGSTOP:
                until(lambda: "attempt.adopted" in standby.log, "the trial is adopted")
                leader.send(signal.SIGCONT)  # it goes on in the middle of what it did
                until(lambda: not leader.leads, "the suspended one stands down")
            view = client.wait(job_id)
            assert view.state is JobState.SUCCEEDED, view.reason
            (trial,) = client.trials(job_id)
            assert (trial.attempts, trial.state) == (1, TrialState.COMPLETE)
        rows, told = stored(postgres_url, job_id)
        assert [row.state for row in rows] == [AttemptState.COMPLETE] * 2  # it was trained, and evaluated
        assert told == [(0, epoch) for epoch in range(1, epochs + 1)]
        assert standby.log.count("attempt.adopted") == 1
    finally:
        for server in servers:
            server.stop()
    until(lambda: not cluster.slots(), "no slot is left")


def test_a_server_whose_cluster_is_not_there_ends_within_seconds_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    server = ServerProcess("server", tmp_path, state_dir=tmp_path / "state", backend="ray")
    server.start()
    until(lambda: server.ended, "it ends", seconds=60)  # Ray itself would still be looking after 160
    said = server.log.splitlines()
    assert f"nobody answers at 127.0.0.1:{port}" in server.log
    assert [line for line in said if line.startswith("way out: ")] == [
        "way out: Correct RAY_ADDRESS, --cpus or --gpus; --backend simulator does without Ray"
    ]
    assert "Traceback" not in server.log
