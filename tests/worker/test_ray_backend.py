"""The Ray backend on a real, small Ray: warm slots, cancelling, a killed worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fixnorm_core.code import keep_code
from fixnorm_core.reach import Reach
from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec, TrialSpec
from worker.contracts import (
    Cancelled,
    Failed,
    FailureKind,
    Outcome,
    Resources,
    Stopped,
    Trained,
    TrainTask,
    Update,
    log_path,
)
from worker.ray_backend import RayBackend

pytestmark = pytest.mark.ray

ONE = Resources(cpus=1.0, gpus=0.0)


@pytest.fixture(scope="module")
def backend() -> Iterator[RayBackend]:
    backend = RayBackend(cpus=2, gpus=2)  # which Ray believes
    yield backend
    backend.close()


def trial(*, epochs: int = 2, seed: int = 0) -> TrialSpec:
    job = JobSpec(
        model=ModelSpec(options={"width": 8}), data=DataSpec(train_limit=200), training=TrainingSpec(epochs=epochs)
    )
    return job.trial({"lr": 0.008, "fc_norm": 2.0}, seed=seed)


def poll_until(backend: RayBackend, *, ended: int = 0, reported: int = 0, seconds: float = 90) -> list[Update]:
    """Polls until so many attempts have ended and so many epochs were reported."""
    updates: list[Update] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for update in backend.poll():
            backend.acknowledge(update)
            updates.append(update)
        outcomes = sum(update.outcome is not None for update in updates)
        if outcomes >= ended and sum(len(update.reports) for update in updates) >= reported:
            return updates
        time.sleep(0.02)
    raise AssertionError(f"only {updates}")


def outcome_of(updates: list[Update], attempt_id: str) -> Outcome:
    (outcome,) = [each.outcome for each in updates if each.attempt_id == attempt_id and each.outcome is not None]
    return outcome


def slot_processes() -> dict[int, float]:
    """The living slot processes of this test, by process id."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith("ray::Slot"):
                found[process.pid] = process.create_time()
    return found


def test_it_has_what_it_was_given(backend: RayBackend) -> None:
    assert backend.capacity() == Resources(cpus=2.0, gpus=2.0)
    (node,) = backend.nodes()
    assert node.total == backend.capacity()


def test_two_trials_run_at_once_and_each_epoch_is_told_once(backend: RayBackend, tmp_path: Path) -> None:
    for seed in (0, 1):
        backend.start(TrainTask(f"at-once-{seed}", trial(seed=seed), str(tmp_path / str(seed))), ONE)
    updates = poll_until(backend, ended=2)
    for seed in (0, 1):
        mine = [update for update in updates if update.attempt_id == f"at-once-{seed}"]
        assert [report.epoch for update in mine for report in update.reports] == [1, 2]
        assert isinstance(outcome_of(updates, f"at-once-{seed}"), Trained)


def test_the_next_trial_finds_a_warm_slot(backend: RayBackend, tmp_path: Path) -> None:
    backend.start(TrainTask("cold", trial(), str(tmp_path / "a")), ONE)
    poll_until(backend, ended=1)
    before = slot_processes()
    assert before
    backend.start(TrainTask("warm", trial(seed=1), str(tmp_path / "b")), ONE)
    poll_until(backend, ended=1)
    assert slot_processes() == before


def test_a_slot_of_another_size_makes_room_for_itself(backend: RayBackend, tmp_path: Path) -> None:
    backend.start(TrainTask("small", trial(), str(tmp_path / "a")), ONE)
    poll_until(backend, ended=1)
    backend.start(TrainTask("large", trial(), str(tmp_path / "b")), Resources(cpus=2.0, gpus=0.0))
    assert isinstance(outcome_of(poll_until(backend, ended=1), "large"), Trained)


def test_a_cancelled_trial_leaves_no_process(backend: RayBackend, tmp_path: Path) -> None:
    backend.start(TrainTask("long", trial(epochs=10_000), str(tmp_path)), ONE)
    poll_until(backend, reported=1)
    training = slot_processes()
    backend.cancel("long")
    assert [type(update.outcome) for update in backend.poll() if update.outcome] == [Cancelled]
    deadline = time.monotonic() + 30
    while len(slot_processes()) == len(training) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(slot_processes()) == len(training) - 1


def test_a_stopped_trial_ends_after_an_epoch_and_its_slot_stays_warm(backend: RayBackend, tmp_path: Path) -> None:
    backend.start(TrainTask("losing", trial(epochs=10_000), str(tmp_path)), ONE)
    poll_until(backend, reported=1)
    training = slot_processes()
    backend.stop("losing")
    assert outcome_of(poll_until(backend, ended=1), "losing") == Stopped()
    assert slot_processes() == training


def test_a_release_ends_all_slots_without_news_and_more_may_be_started(backend: RayBackend, tmp_path: Path) -> None:
    backend.start(TrainTask("given up", trial(epochs=10_000), str(tmp_path / "a")), ONE)
    poll_until(backend, reported=1)
    backend.release()
    assert backend.poll() == []
    deadline = time.monotonic() + 30
    while slot_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert slot_processes() == {}  # the warm ones too
    backend.start(TrainTask("after", trial(), str(tmp_path / "b")), ONE)
    assert isinstance(outcome_of(poll_until(backend, ended=1), "after"), Trained)


def test_a_killed_worker_is_told_as_lost_and_the_trial_resumes_to_the_same_bits(
    backend: RayBackend, tmp_path: Path
) -> None:
    epochs = 40
    backend.start(TrainTask("undisturbed", trial(epochs=epochs), str(tmp_path / "a")), ONE)
    undisturbed = outcome_of(poll_until(backend, ended=1), "undisturbed")
    warm = slot_processes()
    backend.start(TrainTask("killed", trial(epochs=epochs), str(tmp_path / "b")), ONE)
    poll_until(backend, reported=3)
    for pid in warm:
        os.kill(pid, signal.SIGKILL)
    lost = outcome_of(poll_until(backend, ended=1), "killed")
    assert isinstance(lost, Failed)
    assert lost.kind is FailureKind.RETRYABLE
    backend.start(TrainTask("again", trial(epochs=epochs), str(tmp_path / "b")), ONE)
    updates = poll_until(backend, ended=1)
    resumed = outcome_of(updates, "again")
    assert isinstance(undisturbed, Trained)
    assert isinstance(resumed, Trained)
    assert resumed.result.validation_accuracy == undisturbed.result.validation_accuracy
    assert resumed.result.validation_loss == undisturbed.result.validation_loss


def test_each_slot_tells_its_node_and_its_gpus_and_an_idle_one_gives_its_part_of_a_gpu_to_a_whole_one(
    backend: RayBackend, tmp_path: Path
) -> None:
    backend.release()
    (node,) = backend.nodes()
    parts = Resources(cpus=0.5, gpus=0.6)
    for name in ("a", "b"):
        backend.start(TrainTask(name, trial(epochs=10_000), str(tmp_path / name)), parts, [node.name])
    poll_until(backend, reported=4)
    places = backend.places()
    assert {place.node for place in places.values()} == {node.name}
    assert sorted(gpu for place in places.values() for gpu in place.gpus) == ["0", "1"]
    backend.stop("a")
    (ended,) = [update for update in poll_until(backend, ended=1) if update.outcome is not None]
    assert ended.place == places["a"]
    backend.start(TrainTask("whole", trial(), str(tmp_path / "c")), Resources(cpus=1.0, gpus=1.0), [node.name])
    assert backend.places()["whole"] == places["a"]
    updates = poll_until(backend, ended=1)
    assert isinstance(outcome_of(updates, "whole"), Trained)
    assert [update.place for update in updates if update.attempt_id == "whole" and update.outcome] == [places["a"]]
    backend.cancel("b")
    assert [update.attempt_id for update in backend.poll() if update.outcome] == ["b"]


CODE = """
from torch import nn


class Mine(nn.Sequential):
    def forward(self, images):
        if self.training:
            raise ValueError("my own mistake")
        return super().forward(images)


def build(num_classes):
    return Mine(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def broken(num_classes):
    return {}["my own key"]
"""


@pytest.mark.parametrize(
    ("factory", "error", "line"),
    [("build", "ValueError: my own mistake", 8), ("broken", "KeyError: 'my own key'", 17)],
)
def test_the_traceback_of_a_users_code_is_theirs_and_not_rays(
    factory: str, error: str, line: int, backend: RayBackend, tmp_path: Path
) -> None:
    keep_code(CODE, folder=tmp_path / "code")
    (kept,) = (tmp_path / "code").iterdir()
    mine = trial().model_copy(update={"model": ModelSpec(name=f"code@{kept.stem}:{factory}")})
    reach = Reach(code=str(tmp_path / "code"))
    backend.start(TrainTask(f"mine-{factory}", mine, str(tmp_path / "trial"), reach=reach), ONE)
    outcome = outcome_of(poll_until(backend, ended=1), f"mine-{factory}")
    assert isinstance(outcome, Failed)
    logged = log_path(tmp_path / "trial", f"mine-{factory}").read_text()
    assert f'File "{kept}", line {line}' in logged
    assert error in logged
    assert error.split(": ")[1] in outcome.message
    for wrapping in ("/ray/", "RayTaskError", "ray::"):
        assert wrapping not in logged + outcome.message


def test_an_unknown_attempt_can_be_cancelled(backend: RayBackend) -> None:
    backend.cancel("never-started")
    assert backend.poll() == []


def test_where_c_code_crashed_is_in_the_attempts_log(backend: RayBackend, tmp_path: Path) -> None:
    backend.release()
    backend.start(TrainTask("crash", trial(epochs=10_000), str(tmp_path)), ONE)
    poll_until(backend, reported=1)
    (slot,) = slot_processes()
    os.kill(slot, signal.SIGSEGV)
    outcome = outcome_of(poll_until(backend, ended=1), "crash")
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.RETRYABLE
    log = log_path(tmp_path, "crash").read_text()
    assert "epoch 1 of 10000" in log
    assert "Fatal Python error: Segmentation fault" in log
