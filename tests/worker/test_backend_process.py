"""A backend in a process of its own: what happens to it happens to nobody else, and it is made again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from worker.backend_process import BackendProcess, Unreachable
from worker.contracts import Backend, Failed, FailureKind, Resources, Trained, TrainTask, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

ONE = Resources(cpus=1.0, gpus=0.0)


@dataclass
class Remembering(SimulatorBackend):
    """Finds what an earlier one has started, as on a cluster, unless that is ``lost``; hangs while ``hung`` exists."""

    folder: Path = Path()

    def adopt(self, term: int) -> dict[str, Resources]:
        (self.folder / f"term-{term}-{os.getpid()}").touch()
        lost = (self.folder / "lost").exists()
        for name in () if lost else (path.stem for path in self.folder.glob("*.attempt")):
            if name not in self._held:
                super().start(a_task(name), ONE)
        return dict(super().adopt(term))

    def start(self, task: TrainTask, resources: Resources, nodes: Sequence[str] = ()) -> None:  # type: ignore[override]
        (self.folder / f"{task.attempt_id}.attempt").touch()
        super().start(task, resources, nodes)

    def cancel(self, attempt_id: str) -> None:
        (self.folder / f"{attempt_id}.attempt").rename(self.folder / f"{attempt_id}.cancelled")
        super().cancel(attempt_id)

    def acknowledge(self, update: Update) -> None:
        if update.outcome is not None:
            (self.folder / f"{update.attempt_id}.attempt").unlink()
        super().acknowledge(update)

    def poll(self) -> Sequence[Update]:
        while (self.folder / "hung").exists():
            time.sleep(0.01)
        return super().poll()


def a_task(name: str) -> TrainTask:
    return TrainTask(name, Recording.packaged().job.trial({"lr": 0.01, "fc_norm": 2.0}, seed=0), "")


def make(folder: Path) -> Backend:
    if (folder / "away").exists():
        raise ConnectionError("nobody is there")
    return Remembering(Recording.packaged(), epoch_seconds=0.05, folder=folder)


def until(backend: Backend, condition: Callable[[list[Update]], bool]) -> list[Update]:
    """Polls until a condition on the news holds, and returns the news."""
    updates: list[Update] = []
    deadline = time.monotonic() + 120
    while not condition(updates):
        assert time.monotonic() < deadline
        updates.extend(backend.poll())
        time.sleep(0.01)
    return updates


def has_ended(updates: list[Update]) -> bool:
    return bool(updates) and updates[-1].outcome is not None


def the_process(folder: Path, *, term: int) -> int:
    return max(int(path.name.split("-")[2]) for path in folder.glob(f"term-{term}-*"))


@pytest.fixture
def backend(tmp_path: Path) -> BackendProcess:
    return BackendProcess(
        partial(make, tmp_path), "it", call_seconds=60, start_seconds=100, outage_seconds=3600, retry_seconds=0.05
    )


def test_its_calls_are_answered_as_by_the_backend_itself(backend: BackendProcess) -> None:
    assert backend.adopt(1) == {}
    assert backend.capacity() == Resources(cpus=4.0, gpus=0.0)
    backend.start(a_task("a"), ONE)
    updates = until(backend, has_ended)
    assert isinstance(updates[-1].outcome, Trained)
    assert backend.adopt(2) == {"a": ONE}
    backend.acknowledge(updates[-1])
    assert backend.adopt(3) == {}
    backend.close()
    with pytest.raises(Unreachable):
        backend.start(a_task("b"), ONE)


def test_what_still_runs_when_it_is_back_goes_on_and_what_was_cancelled_meanwhile_is_ended(
    backend: BackendProcess, tmp_path: Path
) -> None:
    backend.adopt(7)
    for name in ("a", "b"):
        backend.start(a_task(name), ONE)
    (tmp_path / "away").touch()
    os.kill(the_process(tmp_path, term=7), signal.SIGKILL)
    until(backend, lambda _: backend.trouble() is not None)
    backend.cancel("b")
    with pytest.raises(Unreachable, match=r"it has not answered since .* UTC"):
        backend.start(a_task("c"), ONE)
    until(backend, lambda _: "nobody is there" in str(backend.trouble()))
    (tmp_path / "away").unlink()
    until(backend, lambda _: backend.trouble() is None)
    assert (tmp_path / "b.cancelled").exists()
    updates = until(backend, lambda updates: any(isinstance(update.outcome, Trained) for update in updates))
    assert updates[-1].attempt_id == "a"
    backend.close()


def test_what_is_lost_when_it_is_back_ends_as_an_outage(backend: BackendProcess, tmp_path: Path) -> None:
    backend.adopt(1)
    backend.start(a_task("a"), ONE)
    (tmp_path / "lost").touch()
    os.kill(the_process(tmp_path, term=1), signal.SIGKILL)
    updates = until(backend, has_ended)
    outcome = updates[-1].outcome
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.OUTAGE
    backend.close()


def test_one_that_does_not_answer_is_ended_in_time_and_what_ran_is_given_up_when_that_lasts(
    backend: BackendProcess, tmp_path: Path
) -> None:
    backend.adopt(1)
    backend.start(a_task("a"), ONE)
    process = psutil.Process(the_process(tmp_path, term=1))
    (tmp_path / "hung").touch()
    backend.call_seconds = 1
    (tmp_path / "away").touch()
    until(backend, lambda _: backend.trouble() is not None)
    assert "a call (poll) was not answered within 1 s" in str(backend.trouble())
    assert not process.is_running()
    backend.outage_seconds = 0
    (update,) = backend.poll()
    assert isinstance(update.outcome, Failed)
    assert update.outcome.kind is FailureKind.OUTAGE
    assert "was not answered" in update.outcome.message
    assert backend.poll() == []
    backend.close()


def test_one_that_cannot_be_made_says_why_at_once(tmp_path: Path) -> None:
    (tmp_path / "away").touch()
    with pytest.raises(Unreachable, match="nobody is there"):
        BackendProcess(partial(make, tmp_path), "it")
