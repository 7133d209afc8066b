"""Trials of two ranks on a real, small Ray, with gloo: they live, end and are lost together."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import RayActorError

from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, ResourceSpec, TrainingSpec, TrialSpec
from worker import ray_team
from worker.contracts import (
    Cancelled,
    Failed,
    FailureKind,
    Outcome,
    Place,
    Resources,
    Stopped,
    Trained,
    TrainTask,
    Update,
    log_path,
)
from worker.ray_backend import RayBackend
from worker.ray_team import RayTeam
from worker.run_task import Join
from worker.slot import NotFormed

pytestmark = pytest.mark.ray

GPUS = ResourceSpec(cpus_per_trial=2, gpus_per_trial=2)
TWO = Resources.of(GPUS)


@pytest.fixture(scope="module")
def backend() -> Iterator[RayBackend]:
    backend = RayBackend(cpus=2, gpus=2)  # which Ray believes
    yield backend
    backend.close()


def trial(*, epochs: int) -> TrialSpec:
    job = JobSpec(
        model=ModelSpec(options={"width": 8}),
        data=DataSpec(train_limit=200),
        training=TrainingSpec(epochs=epochs),
        resources=GPUS,
    )
    return job.trial({"lr": 0.008, "fc_norm": 2.0}, seed=0)


def until(condition: Callable[[], bool], *, seconds: float = 240, pause: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(pause)


def until_all_are_gone() -> None:
    """Looking at every process of this machine takes what those under test would need."""
    until(lambda: processes() == {"Slot": [], "Companion": []}, pause=0.2)


def poll_until(backend: RayBackend, *, ended: int = 0, reported: int = 0) -> list[Update]:
    updates: list[Update] = []

    def is_enough() -> bool:
        for update in backend.poll():
            backend.acknowledge(update)
            updates.append(update)
        outcomes = sum(update.outcome is not None for update in updates)
        return outcomes >= ended and sum(len(update.reports) for update in updates) >= reported

    until(is_enough)
    return updates


def outcome_of(updates: list[Update]) -> Outcome:
    (outcome,) = [each.outcome for each in updates if each.outcome is not None]
    return outcome


def processes() -> dict[str, list[int]]:
    """The living slots and their companions."""
    found: dict[str, list[int]] = {"Slot": [], "Companion": []}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            for name, pids in found.items():
                if " ".join(process.cmdline()).startswith(f"ray::{name}"):
                    pids.append(process.pid)
    return found


def test_two_ranks_train_stay_warm_and_are_stopped_and_cancelled_together(backend: RayBackend, tmp_path: Path) -> None:
    (node,) = backend.nodes()
    backend.start(TrainTask("whole", trial(epochs=3), str(tmp_path / "a")), TWO, [node.name])
    updates = poll_until(backend, ended=1)
    assert isinstance(outcome_of(updates), Trained)
    assert [report.epoch for update in updates for report in update.reports] == [1, 2, 3]
    assert sorted(updates[-1].place.gpus if updates[-1].place else ()) == ["0", "1"]
    assert "on rank 1" not in log_path(tmp_path / "a", "whole").read_text()  # it has nothing to complain of
    warm = processes()
    assert [len(pids) for pids in warm.values()] == [1, 1]

    backend.start(TrainTask("losing", trial(epochs=10_000), str(tmp_path / "b")), TWO, [node.name])
    poll_until(backend, reported=1)
    backend.stop("losing")
    assert outcome_of(poll_until(backend, ended=1)) == Stopped()
    assert processes() == warm

    backend.start(TrainTask("long", trial(epochs=10_000), str(tmp_path / "c")), TWO, [node.name])
    poll_until(backend, reported=1)
    assert processes() == warm
    backend.cancel("long")
    assert [type(update.outcome) for update in backend.poll() if update.outcome] == [Cancelled]
    until_all_are_gone()


KILLED_EPOCHS = 24


@pytest.fixture(scope="module")
def undisturbed(backend: RayBackend, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("undisturbed")
    backend.start(TrainTask("undisturbed", trial(epochs=KILLED_EPOCHS), str(folder)), TWO)
    outcome = outcome_of(poll_until(backend, ended=1))
    assert isinstance(outcome, Trained)
    return outcome


@pytest.mark.parametrize("victim", ["Companion", "Slot"])
def test_when_one_rank_is_killed_the_other_ends_and_the_trial_resumes_to_the_same_bits(
    victim: str, backend: RayBackend, undisturbed: Trained, tmp_path: Path
) -> None:
    backend.start(TrainTask("killed", trial(epochs=KILLED_EPOCHS), str(tmp_path)), TWO)
    poll_until(backend, reported=2)
    (pid,) = processes()[victim]
    os.kill(pid, signal.SIGKILL)
    lost = outcome_of(poll_until(backend, ended=1))
    assert isinstance(lost, Failed)
    assert lost.kind is FailureKind.RETRYABLE
    assert ("rank 1 of 2 was lost" if victim == "Companion" else "the worker was lost") in lost.message
    until_all_are_gone()
    backend.start(TrainTask("again", trial(epochs=KILLED_EPOCHS), str(tmp_path)), TWO)
    resumed = outcome_of(poll_until(backend, ended=1))
    assert isinstance(resumed, Trained)
    assert resumed.result.validation_loss == undisturbed.result.validation_loss


def _kill(actor: Any) -> None:
    ray.kill(actor)
    _until_killed(actor)


def _until_killed(actor: Any) -> None:
    """Waits until callers are told so: Ray only asks for the kill, and calls may overtake it."""
    deadline = time.monotonic() + 240
    try:
        while time.monotonic() < deadline:
            ray.get(actor.look.remote(), timeout=240)
    except RayActorError:
        return
    pytest.fail("the actor lives on after it was killed")


def test_a_rank_that_does_not_start_or_is_found_dead_is_told_of_with_its_node_or_replaced(
    backend: RayBackend, tmp_path: Path
) -> None:
    class Companion:
        def __init__(self, starts: bool) -> None:
            if not starts:
                os._exit(1)

        def look(self, *_: object) -> Place:
            return Place("far")

        def train(self, *_args: object) -> Outcome:
            return Stopped()

    backend.release()
    actor_class = ray.remote(num_cpus=0, concurrency_groups={"looks": 1})(Companion)
    here = Place("near")
    with pytest.raises(NotFormed) as raised:
        RayTeam(lambda _rank: actor_class.remote(False), count=2, own=here, nodes=["near", "far"])
    assert raised.value.failed.node == "far"
    assert raised.value.failed.message.startswith("rank 1 of 2, which was starting, was lost")

    started = []

    def begin(_rank: int) -> Any:
        started.append(actor_class.remote(True))
        return started[-1]

    team = RayTeam(begin, count=2, own=here, nodes=["near", "far"])
    assert team.place == Place("near", (), (Place("far"),))
    _kill(started[0])
    task = TrainTask("idle", trial(epochs=1), str(tmp_path))
    team_of_one_node = RayTeam(begin, count=2, own=Place("far"))
    assert team_of_one_node.train(task, lambda _join: Stopped()) == Stopped()
    _kill(started[1])
    assert team_of_one_node.train(task, lambda _join: Stopped()) == Stopped()  # another is in its place
    assert len(started) == 3


def test_a_rank_of_another_build_trains_nothing_and_its_node_is_told_of(
    backend: RayBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.release()
    actor_class = ray.remote(num_cpus=0, concurrency_groups={"looks": 1})(ray_team.Companion)
    monkeypatch.setattr(ray_team, "own_protocol", lambda: "later")  # as a slot on a node that was upgraded says
    with pytest.raises(NotFormed) as raised:
        RayTeam(lambda rank: actor_class.remote(rank, 2), count=2, own=Place("near"), nodes=["near", "far"])
    failed = raised.value.failed
    assert (failed.kind, failed.node) == (
        FailureKind.OUTAGE,
        "far",
    )  # charged to no trial, and counted against the node
    assert failed.message.startswith("rank 1 of 2: the software on the node is another build (")


@pytest.mark.parametrize("kind", [FailureKind.GPU_FAULT, FailureKind.FATAL])
def test_what_may_be_a_nodes_doing_is_told_of_with_it(kind: FailureKind, backend: RayBackend, tmp_path: Path) -> None:
    class Companion:
        def look(self, *_: object) -> Place:
            return Place("far")

        def train(self, *_args: object) -> Outcome:
            return Failed(kind, "it is broken")

    backend.release()
    actor = ray.remote(num_cpus=0, concurrency_groups={"looks": 1})(Companion).remote()
    waits = threading.Event()
    team = RayTeam(lambda _rank: actor, count=2, own=Place("far"))

    def train_as_rank_0(_join: Join) -> Outcome:
        waits.wait(240)
        return Stopped()

    outcome = team.train(TrainTask("broken", trial(epochs=1), str(tmp_path)), train_as_rank_0)
    waits.set()
    is_nodes = kind is FailureKind.GPU_FAULT
    assert outcome == Failed(kind, "rank 1 of 2: it is broken", node="far" if is_nodes else None)


@pytest.mark.parametrize("dies", [False, True])
def test_the_outcome_is_the_rank_that_is_to_blame(dies: bool, backend: RayBackend, tmp_path: Path) -> None:
    """One that fails leaves the others waiting; one that dies makes them fail of the connection, maybe first."""

    class Companion:
        def look(self, *_: object) -> Place:
            return Place("here")

        def train(self, *_args: object) -> Outcome:
            if dies:
                dying.write_text(str(os.getpid()))
                os._exit(1)
            return Failed(FailureKind.FATAL, "it cannot be read")

    dying = tmp_path / "dying"

    def is_dead() -> bool:
        return dying.exists() and dying.read_text() != "" and not psutil.pid_exists(int(dying.read_text()))

    backend.release()
    actor = ray.remote(num_cpus=0, concurrency_groups={"looks": 1})(Companion).remote()
    waits = threading.Event()

    def train_as_rank_0(_join: Join) -> Outcome:
        if dies:
            until(is_dead)
        else:
            waits.wait(240)
        return Failed(FailureKind.CRASHED, "RuntimeError: Connection closed by peer")

    team = RayTeam(lambda _rank: actor, count=2)
    outcome = team.train(TrainTask("failing", trial(epochs=1), str(tmp_path)), train_as_rank_0)
    waits.set()
    assert isinstance(outcome, Failed)
    if dies:
        assert outcome.kind is FailureKind.RETRYABLE
        assert outcome.message.startswith("rank 1 of 2 was lost")
    else:
        assert outcome == Failed(FailureKind.FATAL, "rank 1 of 2: it cannot be read")


@pytest.mark.parametrize("ending", ["hangs", "dies", "fails"])
def test_what_becomes_of_a_rank_after_the_first_has_ended_does_not_matter_and_it_is_replaced(
    ending: str, backend: RayBackend, tmp_path: Path
) -> None:
    class Companion:
        def __init__(self, ending: str) -> None:
            self._ending = ending

        def look(self, *_: object) -> Place:
            return Place("here", (self._ending,))

        def train(self, *_args: object) -> Outcome:
            if self._ending == "well":
                return Stopped()
            began.touch()
            until(ended.exists)
            while self._ending == "hangs":
                time.sleep(1)
            if self._ending == "dies":
                os._exit(1)
            return Failed(FailureKind.CRASHED, "it cannot leave")

    began, ended = tmp_path / "began", tmp_path / "ended"

    def train_as_rank_0(_join: Join) -> Outcome:
        until(began.exists)
        ended.touch()
        return Stopped()

    backend.release()
    actor_class = ray.remote(num_cpus=0, concurrency_groups={"looks": 1})(Companion)
    endings = [ending, "well"]
    started = []

    def begin(_rank: int) -> Any:
        started.append(actor_class.remote(endings[len(started)]))
        return started[-1]

    team = RayTeam(begin, count=2, own=Place("here", ("own",)), end_seconds=0.1 if ending == "hangs" else 240)
    task = TrainTask("ended", trial(epochs=1), str(tmp_path))
    assert team.train(task, train_as_rank_0) == Stopped()
    _until_killed(started[0])
    for _ in range(2):
        assert team.train(task, train_as_rank_0) == Stopped()
        assert team.place == Place("here", ("own", "well"))
    assert len(started) == 2
