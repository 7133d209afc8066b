"""Runs on images that stay in their files: equal to runs in memory, resumable, and leaving nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import make_pictures, readers, readers_once
from safetensors.torch import load_file

from fixnorm_core.errors import DataError
from fixnorm_core.reports import EpochReport
from fixnorm_core.spec import DataSpec, TrialSpec
from fixnorm_core.training.evaluate import evaluate_weights
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer

MakeTrial = Callable[..., TrialSpec]

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create"
)  # more processes than this machine has CPUs

CROPPED = {"crop": "random_resized", "loader_workers": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("runs") / "pictures", count=20)


@pytest.fixture
def make(folder: Path, make_trial: MakeTrial) -> MakeTrial:
    def streamed(fields: dict[str, Any], **training: Any) -> TrialSpec:
        data = DataSpec(**({"name": "imagefolder", "path": str(folder), "image_size": 16, "shift": 2} | fields))
        return make_trial(data=data, **({"epochs": 3, "batch_size": 8} | training))

    return streamed


def run(trial: TrialSpec, folder: Path) -> tuple[list[dict[str, object]], dict[str, torch.Tensor]]:
    torch.set_num_threads(1)
    reports = list(Trainer(trial, folder=folder))
    return [timeless(report) for report in reports], load_file(folder / WEIGHTS_NAME)


def timeless(report: EpochReport) -> dict[str, object]:
    return report.model_dump(exclude={"seconds", "images_per_second"})


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("options", [{}, {"randaugment": {}, "ema_decay": 0.9, "mixup_alpha": 0.2}])
def test_a_streamed_run_is_the_run_in_memory_bit_for_bit(make: MakeTrial, tmp_path: Path, options: Any) -> None:
    in_memory = run(make({"storage": "memory"}, **options), tmp_path / "memory")
    streamed = run(make({"storage": "stream", "loader_workers": 2}, **options), tmp_path / "stream")
    assert streamed[0] == in_memory[0]
    assert same(streamed[1], in_memory[1])
    assert readers() == []


def test_averaged_weights_are_settled_on_images_that_the_processes_read(
    make: MakeTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError("read in the training process")

    trainer = Trainer(make({"storage": "stream", "loader_workers": 1}, epochs=2, ema_decay=0.9), folder=tmp_path)
    monkeypatch.setattr("fixnorm_core.data.streaming.decode_files", refuse)
    assert len(list(trainer)) == 2


def test_evaluating_the_weights_afterwards_gives_the_recorded_accuracy(make: MakeTrial, tmp_path: Path) -> None:
    trainer = Trainer(make(CROPPED), folder=tmp_path)
    last = list(trainer)[-1]
    again = evaluate_weights(tmp_path / WEIGHTS_NAME, split="validation")
    assert (again.accuracy, again.loss) == (last.validation_accuracy, last.validation_loss)
    assert evaluate_weights(tmp_path / WEIGHTS_NAME, split="test").examples == 8
    assert trainer.result().cross_boundary_risk is not None
    assert readers() == []


def test_a_dropped_run_leaves_no_process_and_goes_on_with_more_of_them(make: MakeTrial, tmp_path: Path) -> None:
    whole = run(make(CROPPED), tmp_path / "whole")
    dropped = iter(Trainer(make(CROPPED), folder=tmp_path / "dropped"))
    next(dropped)
    readers_once(2)
    del dropped
    assert readers() == []
    resumed = run(make(CROPPED | {"loader_workers": 1}), tmp_path / "dropped")
    assert resumed[0] == whole[0]
    assert same(resumed[1], whole[1])


def test_a_run_that_meets_a_broken_file_names_it_and_leaves_no_process(make: MakeTrial, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "pictures", count=20)
    trainer = Trainer(make(CROPPED | {"path": str(folder)}), folder=tmp_path / "run")
    epochs = iter(trainer)
    next(epochs)
    readers_once(2)
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"overwritten")
    with pytest.raises(DataError, match=r"pictures/\w+/\d+\.jpg cannot be read as an image"):
        next(epochs)
    assert readers() == []


TRAIN = """
import sys
from pathlib import Path

import torch

from fixnorm_core.spec import TrialSpec
from fixnorm_core.training.trainer import Trainer

torch.set_num_threads(1)
for report in Trainer(TrialSpec.model_validate_json(sys.argv[1]), folder=Path(sys.argv[2])):
    print(report.epoch, flush=True)
"""


def test_a_run_killed_in_the_middle_of_an_epoch_ends_as_it_would_have(make: MakeTrial, tmp_path: Path) -> None:
    trial = make(CROPPED, epochs=12)
    whole = run(trial, tmp_path / "whole")
    command = [sys.executable, "-W", "ignore", "-c", TRAIN, trial.model_dump_json(), str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "3":
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    resumed = run(trial, tmp_path / "killed")
    assert resumed[0] == whole[0]
    assert same(resumed[1], whole[1])
