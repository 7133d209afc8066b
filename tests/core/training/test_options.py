"""Every option of the trainer: it trains, it resumes exactly, and what is saved is what was measured."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fixnorm_core.data.types import TrainingData
from fixnorm_core.reports import EpochReport
from fixnorm_core.spec import TrialSpec
from fixnorm_core.training.evaluate import evaluate_weights
from fixnorm_core.training.trainer import BEST_NAME, WEIGHTS_NAME, Trainer

MakeTrial = Callable[..., TrialSpec]

OPTIONS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "accumulate": {"accumulate": 3},
    "average": {"ema_decay": 0.8},
    "clip": {"clip_grad_norm": 0.5},
    "linear": {"schedule": "linear"},
    "step": {"schedule": {"name": "step", "milestones": [0.4, 0.8], "factor": 0.2}},
    "mixup": {"mixup_alpha": 0.5},
    "cutmix": {"cutmix_alpha": 0.5},
    "randaugment": {"randaugment": {"num_ops": 1, "magnitude": 5}},
    "all at once": {
        "precision": "bf16",
        "accumulate": 2,
        "ema_decay": 0.8,
        "clip_grad_norm": 1.0,
        "schedule": "linear",
        "mixup_alpha": 0.2,
        "cutmix_alpha": 0.2,
        "randaugment": {},
    },
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def timeless(reports: list[EpochReport]) -> list[EpochReport]:
    return [report.model_copy(update={"seconds": 0.0, "images_per_second": 0.0}) for report in reports]


@pytest.mark.parametrize("option", OPTIONS)
def test_run_with_the_option_resumes_exactly_and_its_accuracy_is_that_of_its_weights(
    option: str, make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(epochs=3, **OPTIONS[option])
    trainer = Trainer(trial, folder=tmp_path / "whole", data=small_digits)
    whole = list(trainer)
    list(islice(Trainer(trial, folder=tmp_path / "resumed", data=small_digits), 2))
    resumed = list(Trainer(trial, folder=tmp_path / "resumed", data=small_digits))
    plain = list(Trainer(make_trial(epochs=3), folder=tmp_path / "plain", data=small_digits))

    assert timeless(resumed) == timeless(whole) != timeless(plain)
    expected, found = (load_file(tmp_path / run / WEIGHTS_NAME) for run in ("whole", "resumed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    afresh = evaluate_weights(tmp_path / "whole" / WEIGHTS_NAME, split="validation")
    assert (afresh.accuracy, afresh.loss) == (whole[-1].validation_accuracy, whole[-1].validation_loss)


def test_best_epochs_weights_are_kept_over_a_resume(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(epochs=6, params={"lr": 0.3, "fc_norm": 2.0}, schedule="linear", checkpoints={"best": True})
    list(islice(Trainer(trial, folder=tmp_path, data=small_digits), 3))
    trainer = Trainer(trial, folder=tmp_path, data=small_digits)
    best = max(trainer, key=lambda report: report.validation_accuracy)
    result = trainer.result()
    assert (result.best_epoch, result.best_weights) == (best.epoch, str(tmp_path / BEST_NAME))
    kept = evaluate_weights(tmp_path / BEST_NAME, split="validation")
    assert (kept.accuracy, kept.loss) == (best.validation_accuracy, best.validation_loss)


def test_best_weights_that_were_lost_are_not_named_and_not_taken_for_those_of_a_finished_run(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(epochs=2, params={"lr": 1e-4, "fc_norm": 2.0}, checkpoints={"best": True})
    trainer = Trainer(trial, folder=tmp_path, data=small_digits)
    reports = list(trainer)
    assert trainer.result().best_epoch is not None
    (tmp_path / BEST_NAME).unlink()
    anew = Trainer(trial, folder=tmp_path, data=small_digits)
    assert timeless(list(anew)) == timeless(reports)
    assert (tmp_path / BEST_NAME).is_file()

    worse = make_trial(epochs=2, params={"lr": 10.0, "fc_norm": 2.0}, checkpoints={"best": True})
    first = next(iter(Trainer(worse, folder=tmp_path / "worse", data=small_digits)))
    (tmp_path / "worse" / BEST_NAME).unlink()
    trainer = Trainer(worse, folder=tmp_path / "worse", data=small_digits)
    *_, last = trainer
    assert last.validation_accuracy <= first.validation_accuracy
    assert (trainer.result().best_epoch, trainer.result().best_weights) == (None, None)


def test_no_best_epoch_is_named_unless_asked_for(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trainer = Trainer(make_trial(epochs=1), folder=tmp_path, data=small_digits)
    list(trainer)
    assert (trainer.result().best_epoch, trainer.result().best_weights) == (None, None)


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_checkpoints_are_kept_as_asked_for(
    keep: int, make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(epochs=6, checkpoints={"keep": keep})
    list(islice(Trainer(trial, folder=tmp_path, data=small_digits), 5))
    epochs = sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("checkpoint-*.pt"))
    assert epochs == list(range(6 - keep, 6))


def test_more_parts_than_images_in_a_batch_are_refused(make_trial: MakeTrial) -> None:
    with pytest.raises(ValueError, match="accumulate is 41, above batch_size 40"):
        make_trial(accumulate=41)
