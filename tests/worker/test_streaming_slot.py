"""A slot trains on images that stay in their files: in a thread, in this process and in a Ray actor."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pictures import make_pictures, readers, readers_once

from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec, TrialSpec
from worker.contracts import (
    Cancelled,
    Evaluated,
    EvaluateTask,
    Failed,
    FailureKind,
    Outcome,
    Resources,
    Trained,
    TrainTask,
)
from worker.ray_backend import RayBackend
from worker.slot import Slot

ONE = Resources(cpus=1.0, gpus=0.0)

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create"
)  # more processes than this machine has CPUs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("slot") / "pictures", count=20)


def trial(folder: Path, *, epochs: int = 2, **data: object) -> TrialSpec:
    fields = {"name": "imagefolder", "path": str(folder), "image_size": 16, "crop": "random_resized"}
    job = JobSpec(
        model=ModelSpec(options={"width": 4}),
        data=DataSpec.model_validate(fields | {"loader_workers": 2} | data),
        training=TrainingSpec(epochs=epochs, batch_size=8),
    )
    return job.trial({"lr": 0.008, "fc_norm": 2.0}, seed=1)


def end_of(slot: Slot) -> Outcome:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        news = slot.poll()
        assert news is not None
        if news.outcome is not None:
            slot.free(news.attempt_id)
            return news.outcome
        time.sleep(0.01)
    raise AssertionError("the task did not end")


def test_a_slot_trains_and_evaluates_and_no_reader_outlives_its_trial(folder: Path, tmp_path: Path) -> None:
    slot = Slot(ONE)
    slot.start(TrainTask("a", trial(folder), str(tmp_path)))
    readers_once(2)
    assert isinstance(end_of(slot), Trained)
    assert readers() == []
    slot.start(EvaluateTask("b", trial(folder), str(tmp_path)))
    outcome = end_of(slot)
    assert isinstance(outcome, Evaluated)
    assert outcome.evaluation.examples == 8
    assert readers() == []


def test_the_death_of_a_reader_is_worth_another_try(folder: Path, tmp_path: Path) -> None:
    slot = Slot(ONE)
    slot.start(TrainTask("a", trial(folder, epochs=1000), str(tmp_path)))
    readers_once(2)[0].kill()
    outcome = end_of(slot)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.RETRYABLE
    assert "exited unexpectedly" in outcome.message
    assert readers() == []


@pytest.fixture(scope="module")
def backend() -> Iterator[RayBackend]:
    backend = RayBackend(cpus=1)
    yield backend
    backend.close()


@pytest.mark.ray
@pytest.mark.parametrize("end", ["cancel", "kill -9"])
def test_no_process_is_left_of_an_attempt_that_ends_in_the_middle(
    backend: RayBackend, folder: Path, tmp_path: Path, end: str
) -> None:
    backend.start(TrainTask("a", trial(folder, epochs=10_000), str(tmp_path)), ONE)
    wait_for_epoch(backend)
    family = readers_once(2)
    actor = psutil.Process(family[0].ppid()).parent()  # of the fork server
    assert actor is not None
    assert actor.pid != os.getpid()
    family += [actor, *actor.children(recursive=True)]
    if end == "cancel":
        backend.cancel("a")
    else:
        actor.kill()
    outcome = wait_for_outcome(backend)
    assert isinstance(outcome, Cancelled if end == "cancel" else Failed)
    deadline = time.monotonic() + 60
    while (left := [process for process in family if lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def wait_for_epoch(backend: RayBackend) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for update in backend.poll():
            assert update.outcome is None, update.outcome
            return
        time.sleep(0.05)
    raise AssertionError("no epoch was reported")


def wait_for_outcome(backend: RayBackend) -> Outcome:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for update in backend.poll():
            backend.acknowledge(update)
            if update.outcome is not None:
                return update.outcome
        time.sleep(0.05)
    raise AssertionError("the attempt did not end")


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
