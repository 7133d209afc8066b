from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fixnorm_core.data.types import TrainingData
from fixnorm_core.spec import TrialSpec
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer

MakeTrial = Callable[..., TrialSpec]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def checkpoints(folder: Path, pattern: str = "checkpoint-*.pt") -> list[Path]:
    return sorted(folder.glob(pattern))


def train(trial: TrialSpec, folder: Path, data: TrainingData, *, epochs: int) -> None:
    """Trains some epochs, those before a resume included, and is interrupted."""
    list(islice(iter(Trainer(trial, folder=folder, data=data)), epochs))


def damage(folder: Path) -> None:
    for path in checkpoints(folder):
        path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("unusable", ["damaged", "of another run"])
def test_run_started_anew_beside_unusable_checkpoints_can_be_interrupted_too(
    unusable: str, make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial, folder = make_trial(epochs=8), tmp_path / "run"
    list(Trainer(trial, folder=tmp_path / "whole", data=small_digits))
    train(trial if unusable == "damaged" else make_trial(epochs=8, seed=1), folder, small_digits, epochs=6)
    if unusable == "damaged":
        damage(folder)
    left = {path.read_bytes() for path in checkpoints(folder)}

    train(trial, folder, small_digits, epochs=4)
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-000003.pt", "checkpoint-000004.pt"]
    assert {path.read_bytes() for path in checkpoints(folder, "*.unused")} == left  # renamed, not removed
    assert caplog.text.count("remove it if nobody needs it") == 2

    third = Trainer(trial, folder=folder, data=small_digits)
    assert len(third._reports) == 4
    list(third)
    expected, found = (load_file(path / WEIGHTS_NAME) for path in (tmp_path / "whole", folder))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert {path.read_bytes() for path in checkpoints(folder, "checkpoint-*")} == left


def test_run_that_falls_back_keeps_what_it_writes(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(epochs=8, checkpoints={"keep": 1})
    train(trial, tmp_path, small_digits, epochs=2)
    good = {path.name: path.read_bytes() for path in checkpoints(tmp_path)}
    train(trial, tmp_path, small_digits, epochs=5)
    damage(tmp_path)
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
    train(trial, tmp_path, small_digits, epochs=3)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-000003.pt"]
    assert len(Trainer(trial, folder=tmp_path, data=small_digits)._reports) == 3


def test_run_that_was_only_built_touches_no_checkpoint_of_another(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    train(make_trial(), tmp_path, small_digits, epochs=2)
    Trainer(make_trial(seed=1), folder=tmp_path, data=small_digits)
    assert len(Trainer(make_trial(), folder=tmp_path, data=small_digits)._reports) == 2


def test_run_of_a_single_epoch_leaves_the_checkpoints_of_another(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    train(make_trial(), tmp_path, small_digits, epochs=2)
    left = {path.read_bytes() for path in checkpoints(tmp_path)}
    list(Trainer(make_trial(epochs=1), folder=tmp_path, data=small_digits))
    assert {path.read_bytes() for path in checkpoints(tmp_path, "checkpoint-*")} == left
