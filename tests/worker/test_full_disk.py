"""A trial whose disk is full: it says so, leaves nothing half-written, and goes on from its last checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from disks import SmallDisk, mounted
from safetensors.torch import load_file

from fixnorm_core.reports import EpochReport
from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec, TrialSpec
from worker.contracts import EvaluateTask, Failed, FailureKind, Outcome, Trained, TrainTask, log_path
from worker.run_task import DataCache, run_task

EPOCHS = 4
WEIGHTS = "weights.safetensors"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", size=4 * 2**20) as disk:
        yield disk


@pytest.fixture(scope="module")
def cache() -> DataCache:
    return DataCache()


@pytest.fixture
def trial() -> TrialSpec:
    job = JobSpec(
        model=ModelSpec(options={"width": 8}), data=DataSpec(train_limit=100), training=TrainingSpec(epochs=EPOCHS)
    )
    return job.trial({"lr": 0.008, "fc_norm": 2.0}, seed=1)


def train(
    trial: TrialSpec,
    folder: Path,
    cache: DataCache,
    *,
    attempt: str = "a",
    disk: SmallDisk | None = None,
    after: int = 0,
) -> Outcome:
    """Trains; ``disk`` is filled after an epoch."""

    def report(epoch: EpochReport) -> None:
        if disk is not None and epoch.epoch == after:
            disk.fill()

    return run_task(TrainTask(attempt, trial, str(folder)), cache=cache, report=report)


def assert_same_weights(one: Path, other: Path) -> None:
    expected, found = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("after", [1, EPOCHS - 1])
def test_a_checkpoint_or_weights_without_room_fail_as_a_full_disk_and_the_trial_goes_on_to_the_same_weights(
    disk: SmallDisk, trial: TrialSpec, cache: DataCache, tmp_path: Path, after: int
) -> None:
    folder = disk.path / "trial"
    failed = train(trial, folder, cache, disk=disk, after=after)
    assert isinstance(failed, Failed)
    assert failed.kind is FailureKind.DISK_FULL
    size = (folder / f"checkpoint-{after:06d}.pt").stat().st_size
    assert failed.message == f"no space left on the disk of {folder} (0 bytes free, {size / 1024:.1f} KiB needed)"
    assert "No space left on device" in failed.details
    assert not list(folder.glob(".*.partial"))
    disk.free()

    told: list[int] = []
    task = TrainTask("b", trial, str(folder))
    assert isinstance(run_task(task, cache=cache, report=lambda epoch: told.append(epoch.epoch)), Trained)
    assert told == list(range(1, EPOCHS + 1))
    assert f"resuming after epoch {after} of {EPOCHS}" in log_path(folder, "b").read_text(encoding="utf-8")
    assert isinstance(train(trial, tmp_path / "undisturbed", cache), Trained)
    assert_same_weights(tmp_path / "undisturbed", folder)


def test_wherever_the_room_ends_a_run_ends_well_or_as_a_full_disk_and_the_next_one_finishes_it(
    disk: SmallDisk, trial: TrialSpec, cache: DataCache, tmp_path: Path
) -> None:
    assert isinstance(train(trial, tmp_path / "undisturbed", cache), Trained)
    ends = set()
    for pages in range(0, 176, 25):
        folder = disk.path / f"with {pages} pages"
        disk.fill(leave=4096 * pages)
        outcome = train(trial, folder, cache)
        assert isinstance(outcome, Trained) or (
            isinstance(outcome, Failed) and outcome.kind is FailureKind.DISK_FULL
        ), outcome
        ends.add(type(outcome))
        disk.free()
        assert isinstance(train(trial, folder, cache, attempt="b"), Trained)
        assert_same_weights(tmp_path / "undisturbed", folder)
    assert ends == {Trained, Failed}


def test_a_log_without_room_costs_no_run(disk: SmallDisk, trial: TrialSpec, cache: DataCache, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    assert isinstance(train(trial, folder, cache), Trained)
    (disk.path / "logs").mkdir()
    (folder / "logs").rename(tmp_path / "old logs")
    (folder / "logs").symlink_to(disk.path / "logs")
    disk.fill()
    outcome = run_task(EvaluateTask("b", trial, str(folder)), cache=cache, report=lambda _: None)
    assert not isinstance(outcome, Failed), outcome
    assert log_path(folder, "b").read_bytes() == b""


def test_a_full_disk_is_told_by_its_cause_whatever_was_raised_over_it(tmp_path: Path, trial: TrialSpec) -> None:
    class Full(DataCache):
        def load(self, *_: object) -> object:  # type: ignore[override]
            try:
                raise OSError(122, "Disk quota exceeded", "/data/cifar10.part")
            except OSError as error:
                raise RuntimeError("the download failed") from error

    outcome = run_task(TrainTask("a", trial, str(tmp_path)), cache=Full(), report=lambda _: None)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.DISK_FULL
    assert outcome.message.startswith("no space left on the disk of /data/cifar10.part (")


def test_what_a_task_prints_without_room_costs_no_run_and_the_process_has_its_output_back(disk: SmallDisk) -> None:
    words = """
import sys
from pathlib import Path
from worker.output import printed_to
with printed_to(Path(sys.argv[1])):
    print("lost")
print("after")
"""
    path = disk.path / "log"
    path.touch()
    disk.fill()
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", words, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=buffered)
    assert done.stdout.endswith("after\n")
