import json
import logging
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fixnorm_core.data.types import TrainingData
from fixnorm_core.errors import RolesError, SpecError
from fixnorm_core.reports import EpochReport, TrialOutcome
from fixnorm_core.spec import DataSpec, Method, ModelSpec, TrialSpec
from fixnorm_core.training.evaluate import evaluate_weights
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer

MakeTrial = Callable[..., TrialSpec]
WITH_DROPOUT = ModelSpec(name="mobilenet_v3_small", options={"dropout": 0.5})


def timeless(reports: list[EpochReport]) -> list[EpochReport]:
    """The reports without what a clock decides."""
    return [report.model_copy(update={"seconds": 0.0, "images_per_second": 0.0}) for report in reports]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("method", list(Method))
def test_run_reports_every_epoch_and_leaves_weights_alone(
    method: Method, make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trainer = Trainer(make_trial(method=method), folder=tmp_path / "run", data=small_digits)
    reports = list(trainer)
    result = trainer.result()
    assert [report.epoch for report in reports] == [1, 2, 3, 4]
    assert reports[-1].train_loss < reports[0].train_loss
    assert (result.outcome, result.epochs, result.classes) == (TrialOutcome.COMPLETE, 4, 10)
    assert result.validation_accuracy == reports[-1].validation_accuracy
    assert result.validation_examples == 100
    assert (
        result.largest_class_share
        == max(small_digits.validation.labels.tolist().count(label) for label in range(10)) / 100
    )
    assert result.seconds == sum(report.seconds for report in reports)
    assert result.roles.head == ("head.weight",)
    assert result.device == "cpu"
    assert result.versions["torch"] == torch.__version__
    assert names(tmp_path / "run") == {WEIGHTS_NAME, "result.json"}


def test_it_learns_to_read_digits(make_trial: MakeTrial, tmp_path: Path) -> None:
    trial = make_trial(data=DataSpec(), model=ModelSpec(options={"width": 8}), epochs=5, batch_size=64)
    trainer = Trainer(trial, folder=tmp_path)
    list(trainer)
    assert trainer.result().validation_accuracy > 0.9


@pytest.mark.parametrize("method", list(Method))
def test_recorded_accuracy_is_that_of_the_saved_weights(
    method: Method, make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trainer = Trainer(make_trial(method=method), folder=tmp_path, data=small_digits)
    list(trainer)
    afresh = evaluate_weights(tmp_path / WEIGHTS_NAME, split="validation")
    assert afresh.accuracy == trainer.result().validation_accuracy
    assert afresh.loss == trainer.result().validation_loss
    assert afresh.examples == 100


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": Method.WEIGHT_DECAY},
        {"optimizer": {"name": "adamw"}},
        {"weight_norm": "init"},
        {"model": WITH_DROPOUT, "data": DataSpec(train_limit=40, validation_limit=20, image_size=16, flip=True)},
    ],
    ids=["fixnorm", "weight decay", "adamw", "init norm", "dropout and flips"],
)
@pytest.mark.parametrize("stop_after", [1, 3])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    changes: dict[str, object], stop_after: int, make_trial: MakeTrial, tmp_path: Path
) -> None:
    trial = make_trial(**changes)
    whole = list(Trainer(trial, folder=tmp_path / "whole"))

    interrupted = iter(Trainer(trial, folder=tmp_path / "resumed"))
    before = list(islice(interrupted, stop_after))
    torch.rand(7)  # whatever happens in between must not matter
    resumed = Trainer(trial, folder=tmp_path / "resumed")
    after = list(resumed)

    assert after[:stop_after] == before
    assert timeless(after) == timeless(whole)
    expected, found = (load_file(tmp_path / run / WEIGHTS_NAME) for run in ("whole", "resumed"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_run_stopped_before_its_first_epoch_starts_over(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    Trainer(make_trial(), folder=tmp_path, data=small_digits)
    assert len(list(Trainer(make_trial(), folder=tmp_path, data=small_digits))) == 4


def test_finished_run_is_taken_up_without_training(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    first = Trainer(make_trial(), folder=tmp_path, data=small_digits)
    reports = list(first)
    written = (tmp_path / WEIGHTS_NAME).stat().st_mtime_ns
    again = Trainer(make_trial(), folder=tmp_path, data=small_digits)
    assert again.result() == first.result()
    assert list(again) == reports
    assert (tmp_path / WEIGHTS_NAME).stat().st_mtime_ns == written


def test_another_trial_in_the_same_folder_trains_anew_and_says_so(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Trainer(make_trial(), folder=tmp_path, data=small_digits)
    list(first)
    other = Trainer(make_trial(seed=1), folder=tmp_path, data=small_digits)
    list(other)
    assert other.result().validation_loss != first.result().validation_loss
    assert "of another run" in caplog.text


def test_checkpoint_of_another_trial_is_not_taken_up(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    next(iter(Trainer(make_trial(seed=1), folder=tmp_path / "shared", data=small_digits)))
    shared = list(Trainer(make_trial(), folder=tmp_path / "shared", data=small_digits))
    alone = list(Trainer(make_trial(), folder=tmp_path / "alone", data=small_digits))
    assert timeless(shared) == timeless(alone)
    assert "checkpoint of another run" in caplog.text


@pytest.mark.parametrize("damaged", [1, 2], ids=["the newest", "all"])
def test_damaged_checkpoint_costs_epochs_but_changes_nothing(
    damaged: int, make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = list(Trainer(make_trial(), folder=tmp_path / "whole", data=small_digits))
    folder = tmp_path / "damaged"
    list(islice(iter(Trainer(make_trial(), folder=folder, data=small_digits)), 3))
    for checkpoint in sorted(folder.glob("checkpoint-*"))[-damaged:]:
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert timeless(list(Trainer(make_trial(), folder=folder, data=small_digits))) == timeless(whole)
    assert caplog.text.count("not a whole checkpoint") == damaged


def test_seed_decides_the_run(make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path) -> None:
    runs = [
        timeless(list(Trainer(make_trial(seed=seed), folder=tmp_path / str(number), data=small_digits)))
        for number, seed in enumerate((0, 0, 1))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_callers_random_state_and_settings_are_left_alone(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    for _ in Trainer(make_trial(), folder=tmp_path, data=small_digits):
        assert torch.equal(torch.random.get_rng_state(), before)
        assert not torch.are_deterministic_algorithms_enabled()
    evaluate_weights(tmp_path / WEIGHTS_NAME, split="test")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch._C._get_deterministic_fill_uninitialized_memory()


def test_weights_are_held_and_the_head_is_bounded(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(params={"lr": 0.05, "fc_norm": 0.7}, weight_norm=3.0)
    trainer = Trainer(trial, folder=tmp_path, data=small_digits)
    reports = list(trainer)
    assert all(report.head_norm <= report.head_bound * (1 + 1e-6) for report in reports if report.head_bound)
    assert reports[-1].head_norm == pytest.approx(reports[-1].head_bound)  # the bound was met, so it was tested
    tensors = load_file(tmp_path / WEIGHTS_NAME)
    for name in trainer.result().roles.scale_invariant:
        assert tensors[name].norm().item() == pytest.approx(3.0, rel=1e-5)


def test_weight_decay_has_no_bound_and_shrinks_weights_but_not_gains(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    tensors = {}
    for decay in (1e-6, 0.1):
        trial = make_trial(method=Method.WEIGHT_DECAY, params={"lr": 0.1, "weight_decay": decay}, epochs=8)
        trainer = Trainer(trial, folder=tmp_path / str(decay), data=small_digits)
        assert all(report.head_bound is None for report in trainer)
        tensors[decay] = load_file(tmp_path / str(decay) / WEIGHTS_NAME)
    ratio = {
        name: (tensors[0.1][name].norm() / tensors[1e-6][name].norm()).item()
        for name in ("stem.0.weight", "head.weight", "stem.1.weight")
    }
    assert ratio["stem.0.weight"] < 0.8
    assert ratio["head.weight"] < 0.8
    assert ratio["stem.1.weight"] > 0.9


def test_model_without_any_normalization_can_be_tuned_by_weight_decay_but_not_by_fixnorm(
    make_trial: MakeTrial, tmp_path: Path
) -> None:
    squeezenet = ModelSpec(name="squeezenet1_1")
    data = DataSpec(image_size=32, train_limit=40, validation_limit=20)
    trial = make_trial(method=Method.WEIGHT_DECAY, model=squeezenet, data=data, epochs=1)
    trainer = Trainer(trial, folder=tmp_path / "decay")
    assert len(list(trainer)) == 1
    assert trainer.result().roles.scale_invariant == ()
    with pytest.raises(RolesError, match="method: weight_decay"):
        Trainer(make_trial(model=squeezenet, data=data), folder=tmp_path / "fixnorm")


@pytest.mark.parametrize(
    ("method", "highest", "power"), [(Method.FIXNORM, 0.008, 0.5), (Method.WEIGHT_DECAY, 0.1, 1.0)]
)
def test_rate_of_an_epochs_last_step_is_reported(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path, method: Method, highest: float, power: float
) -> None:
    trainer = Trainer(make_trial(method=method), folder=tmp_path, data=small_digits)
    rates = [report.learning_rate for report in trainer]
    steps, warmup = 4 * 5, 2
    shares = [0.5 * (1 + math.cos(math.pi * (5 * epoch - 1 - warmup) / (steps - warmup))) for epoch in (1, 2, 3, 4)]
    assert rates == pytest.approx([highest * share**power for share in shares])


@pytest.mark.parametrize(
    ("method", "params"),
    [
        (Method.WEIGHT_DECAY, {"lr": 1e30, "weight_decay": 1e-4}),
        (Method.FIXNORM, {"lr": 1e30, "fc_norm": 2.0}),
    ],
)
def test_divergence_ends_the_run_with_chance_level_numbers(
    method: Method, params: dict[str, float], make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(method=method, params=params)
    trainer = Trainer(trial, folder=tmp_path, data=small_digits)
    reports = list(trainer)
    result = trainer.result()
    assert [report.diverged for report in reports] == [True]
    assert (result.outcome, result.epochs, result.weights) == (TrialOutcome.DIVERGED, 1, None)
    assert (result.validation_accuracy, result.validation_loss) == (0.1, math.log(10))
    numbers = [value for value in json.loads(reports[0].model_dump_json()).values() if value is not None]
    assert all(math.isfinite(value) for value in numbers)
    assert names(tmp_path) == {"result.json"}
    assert list(Trainer(trial, folder=tmp_path, data=small_digits)) == reports


def test_divergence_in_a_long_epoch_is_seen_before_its_end(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(method=Method.WEIGHT_DECAY, params={"lr": 1e30, "weight_decay": 1e-4}, batch_size=1)
    report = next(iter(Trainer(trial, folder=tmp_path, data=small_digits)))
    assert report.diverged
    assert report.images_per_second * report.seconds < 200


def test_result_of_a_run_that_has_not_ended_is_refused(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trainer = Trainer(make_trial(), folder=tmp_path, data=small_digits)
    next(iter(trainer))
    with pytest.raises(RuntimeError, match="1 of 4 epochs"):
        trainer.result()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_refused(make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="torch sees no GPU"):
        Trainer(make_trial(device="cuda"), folder=tmp_path, data=small_digits)


def test_progress_is_logged(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="fixnorm_core"):
        list(Trainer(make_trial(), folder=tmp_path, data=small_digits))
    assert "epoch 4 of 4: train loss" in caplog.text
