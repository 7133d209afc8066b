"""Two ranks train what one would: the same batches, and the same numbers up to rounding.

Not the same bits: a gradient that two ranks add up is rounded in another order than one over the whole batch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from group import die_after, run_ranks, several, train
from safetensors.torch import load_file
from torch import Tensor, nn

from fixnorm_core.data.load import load_training_data
from fixnorm_core.data.store import BucketDown
from fixnorm_core.errors import DataError, SpecError
from fixnorm_core.reports import EpochReport, TrialOutcome, TrialResult
from fixnorm_core.spec import DataSpec, Method, ModelSpec, RandAugmentSpec, TrainingSpec, TrialSpec
from fixnorm_core.training.evaluate import evaluate_weights
from fixnorm_core.training.fit import Fit
from fixnorm_core.training.ranks import Ranks
from fixnorm_core.training.stepping import Stepper
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer

GROUP_NORM = ModelSpec(options={"width": 4, "norm": "group"})
BATCH_NORM = ModelSpec(options={"width": 4})
DATA = DataSpec(train_limit=203, validation_limit=300)  # batches of 41 and 40, validated in two
MIXED: dict[str, Any] = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "randaugment": RandAugmentSpec()}
EVERYTHING = MIXED | {"accumulate": 3, "ema_decay": 0.9, "clip_grad_norm": 1.0, "checkpoints": {"best": True}}


def trial_of(
    *,
    method: Method = Method.FIXNORM,
    params: dict[str, float] | None = None,
    model: ModelSpec = GROUP_NORM,
    data: DataSpec = DATA,
    ranks: int = 2,
    **training: Any,
) -> TrialSpec:
    knobs = {
        Method.FIXNORM: {"lr": 0.008, "fc_norm": 2.0},
        Method.WEIGHT_DECAY: {"lr": 0.1, "weight_decay": 1e-3},
    }
    return TrialSpec(
        model=model,
        data=data,
        training=TrainingSpec(**({"epochs": 2, "batch_size": 41, "device": "cpu"} | training)),
        method=method,
        params=params or knobs[method],
        seed=0,
        ranks=ranks,
    )


# Two epochs: training magnifies a difference of rounding as any other
VARIANTS = {
    "fixnorm": trial_of(),
    # At a rate of 0.1 some processors' roundings end 20 % apart
    "weight decay": trial_of(method=Method.WEIGHT_DECAY, params={"lr": 0.02, "weight_decay": 1e-3}),
    "adamw": trial_of(optimizer={"name": "adamw"}, weight_norm="init"),
    "everything": trial_of(**EVERYTHING),
    "batch norm": trial_of(model=BATCH_NORM, epochs=3),
    "batch norm, everything": trial_of(model=BATCH_NORM, epochs=3, **EVERYTHING),
}
NEAR_ONE_RANK = [name for name, trial in VARIANTS.items() if trial.model == GROUP_NORM]
RESUMED = [name for name in VARIANTS if name not in NEAR_ONE_RANK]


@dataclass(frozen=True)
class Run:
    """What both ranks have of a run, and where its files are."""

    first: tuple[list[EpochReport], TrialResult]
    second: tuple[list[EpochReport], TrialResult]
    folder: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every variant, trained by two ranks."""
    folder = tmp_path_factory.mktemp("whole")
    works = [(train, (trial, str(folder / name))) for name, trial in VARIANTS.items()]
    first, second = run_ranks(several, works, folder=folder / "group")
    return {name: Run(*both, folder / name) for name, *both in zip(VARIANTS, first, second, strict=True)}


def timeless(reports: list[EpochReport]) -> list[EpochReport]:
    return [report.model_copy(update={"seconds": 0.0, "images_per_second": 0.0}) for report in reports]


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", VARIANTS)
def test_both_ranks_tell_the_same(name: str, runs: dict[str, Run]) -> None:
    run = runs[name]
    (first, result), (second, other) = run.first, run.second
    assert timeless(first) == timeless(second)
    assert result == other
    assert (result.outcome, result.epochs) == (TrialOutcome.COMPLETE, len(first))


@pytest.mark.parametrize("name", NEAR_ONE_RANK)
def test_two_ranks_equal_one_with_the_same_global_batch(name: str, runs: dict[str, Run], tmp_path: Path) -> None:
    one = list(Trainer(VARIANTS[name].model_copy(update={"ranks": 1}), folder=tmp_path))
    for found, expected in zip(runs[name].first[0], one, strict=True):
        for number in ("train_loss", "validation_loss", "head_norm", "learning_rate"):
            assert getattr(found, number) == pytest.approx(getattr(expected, number), rel=1e-3), number
        assert found.train_accuracy == pytest.approx(expected.train_accuracy, abs=0.01)
        assert found.validation_accuracy == pytest.approx(expected.validation_accuracy, abs=0.01)
        assert found.diagnostics is not None
        assert expected.diagnostics is not None
        assert found.diagnostics.feature_norm == pytest.approx(expected.diagnostics.feature_norm, rel=1e-3)
    weights, alone = (load_file(folder / WEIGHTS_NAME) for folder in (runs[name].folder, tmp_path))
    for parameter, weight in alone.items():
        torch.testing.assert_close(weights[parameter], weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["batch norm", "batch norm, everything"])
def test_the_accuracy_of_several_ranks_is_that_of_the_saved_weights_bit_for_bit(
    name: str, runs: dict[str, Run]
) -> None:
    (*_, last), _ = runs[name].first
    afresh = evaluate_weights(runs[name].folder / WEIGHTS_NAME, split="validation")
    assert (afresh.accuracy, afresh.loss) == (last.validation_accuracy, last.validation_loss)


# torch.multiprocessing leaves a semaphore behind when a process is killed
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_interrupted_ranks_resume_to_the_same_bits_also_when_one_was_killed(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    begun = [(train, (VARIANTS[name], str(tmp_path / name), 1)) for name in RESUMED[1:]]
    killed = (die_after, (VARIANTS[RESUMED[0]], str(tmp_path / RESUMED[0]), 1))
    with pytest.raises((torch.multiprocessing.ProcessRaisedException, torch.multiprocessing.ProcessExitedException)):
        run_ranks(several, [*begun, killed], folder=tmp_path / "begun")
    assert {len(list((tmp_path / name).glob("checkpoint-*.pt"))) for name in RESUMED} == {1}
    rest = [(train, (VARIANTS[name], str(tmp_path / name))) for name in RESUMED]
    resumed, _ = run_ranks(several, rest, folder=tmp_path / "rest")
    for name, (reports, _) in zip(RESUMED, resumed, strict=True):
        assert timeless(reports) == timeless(runs[name].first[0])
        assert equal(*(load_file(folder / WEIGHTS_NAME) for folder in (runs[name].folder, tmp_path / name)))


def epoch_of(ranks: Ranks, trial: TrialSpec) -> dict[str, Any]:
    """What a rank is fed in a run's first epoch, and what it holds after it."""
    seen: list[tuple[Tensor, Tensor]] = []
    fit = Fit(trial, load_training_data(trial.data), device=torch.device("cpu"), ranks=ranks)
    step = fit._stepper.step

    def spy(images: Tensor, targets: Tensor, *, of: int | None = None) -> tuple[Tensor, Tensor]:
        seen.append((images.clone(), targets.clone()))
        return step(images, targets, of=of)

    fit._stepper.step = spy  # type: ignore[method-assign]
    fit.train_epoch(1)
    held = [fit.model.get_parameter(name).norm().item() for name in fit.roles.scale_invariant]
    return {"seen": seen, "model": fit.model.state_dict(), "held": held}


def assert_same_batches(trial: TrialSpec, folder: Path, *, count: int) -> None:
    one = epoch_of(Ranks(), trial)["seen"]
    ranks = run_ranks(epoch_of, trial, folder=folder, count=count)
    assert len(one) == 5
    for step, (images, targets) in enumerate(one):
        assert torch.equal(torch.cat([rank["seen"][step][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank["seen"][step][1] for rank in ranks]), targets)
    assert equal(ranks[0]["model"], ranks[-1]["model"])  # with the statistics of BatchNorm, of which each saw its own
    assert ranks[0]["held"] == ranks[-1]["held"] == pytest.approx([1.0] * len(ranks[0]["held"]), rel=1e-5)


def test_three_ranks_are_fed_the_batches_of_one_and_hold_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    data = DataSpec(train_limit=203, flip=True, shift=2)
    assert_same_batches(trial_of(model=BATCH_NORM, data=data, **MIXED), tmp_path, count=3)


@pytest.mark.cifar10
def test_ranks_that_read_from_files_are_fed_the_batches_of_one(cifar10_root: Path, tmp_path: Path) -> None:
    data = DataSpec(
        name="imagefolder",
        path=str(cifar10_root / "cifar10"),
        image_size=16,
        train_limit=203,
        validation_limit=50,
        crop="random_resized",
        loader_workers=1,
    )
    assert_same_batches(trial_of(model=BATCH_NORM, data=data, **MIXED), tmp_path, count=2)


def passes_of(ranks: Ranks) -> tuple[int, Tensor]:
    """Forward passes of one step on five images in up to three parts, and the weights after it."""
    torch.manual_seed(0)
    images, labels, model = torch.randn(5, 3, 1, 1), torch.arange(5), nn.Sequential(nn.Flatten(), nn.Linear(3, 5))
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    training = TrainingSpec(accumulate=3)
    stepper = Stepper(model, optimizer, training=training, device=torch.device("cpu"), ranks=ranks)
    places = ranks.share().places(5)
    stepper.step(images[places], labels[places], of=None if ranks.count == 1 else 5)
    return len(passes), model[1].weight.detach()


def test_ranks_of_unequal_shares_make_as_many_passes_so_that_what_they_exchange_in_each_meets(tmp_path: Path) -> None:
    (first, weights), (second, others) = run_ranks(passes_of, folder=tmp_path)
    assert (first, second) == (2, 2)  # of three images and of two
    alone, expected = passes_of(Ranks())
    assert alone == 3
    assert torch.equal(weights, others)
    torch.testing.assert_close(weights, expected)


LEAVES_WITH_WORK_UNDER_WAY = """
import sys, time
from pathlib import Path
import torch, torch.distributed as dist
from torch import nn
from fixnorm_core.training.stepping import _parallel

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
for run in range(2):  # torch never ends the first group of a process
    store = dist.FileStore(str(folder / f"meeting-{run}"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    parallel = _parallel(nn.Linear(2, 2), device=torch.device("cpu"), sync=False)
    leaving = folder / f"leaving-{run}"
    if rank == 1:
        while not leaving.exists():
            time.sleep(0.01)
        time.sleep(0.5)  # now rank 0 waits for its threads
    dist.all_reduce(torch.ones(2), async_op=rank == 0)
    leaving.touch()
    dist.destroy_process_group()
    del parallel
print("left")
"""


def test_a_process_that_leaves_does_not_stand_still_while_gloo_lets_go_of_tensors(tmp_path: Path) -> None:
    """With Python's lock held while it waits for gloo's threads it did now and then: nothing in it went on any more."""
    command = [sys.executable, "-c", LEAVES_WITH_WORK_UNDER_WAY]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment)
        for rank in range(2)
    ]
    try:
        assert [rank.communicate(timeout=120)[0] for rank in ranks] == ["left\n", "left\n"]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def poisoned(ranks: Ranks, trial: TrialSpec, folder: str) -> list[EpochReport]:
    """A run of which rank 1 alone has a weight that is not finite."""
    trainer = Trainer(trial, folder=Path(folder), ranks=ranks)
    if ranks.rank == 1:
        assert trainer._fit is not None
        nn.init.constant_(trainer._fit.model.get_parameter("head.bias"), float("nan"))
    return list(trainer)


def test_a_run_that_diverges_ends_on_every_rank_also_when_one_alone_has_seen_it(tmp_path: Path) -> None:
    small: dict[str, Any] = {"data": DataSpec(train_limit=200, validation_limit=100), "batch_size": 2}
    wild = trial_of(method=Method.WEIGHT_DECAY, params={"lr": 1e30, "weight_decay": 1e-4}, **small)
    works = [(train, (wild, str(tmp_path / "wild"))), (poisoned, (trial_of(**small), str(tmp_path / "one")))]
    first, second = run_ranks(several, works, folder=tmp_path / "group")
    (reports, result), (others, _) = first[0], second[0]
    assert timeless(reports) == timeless(others)
    assert [report.diverged for report in reports] == [True]
    assert result.outcome is TrialOutcome.DIVERGED
    assert reports[0].images_per_second * reports[0].seconds < 150  # at the first look, after 50 of 100 steps
    assert [report.diverged for report in first[1]] == [report.diverged for report in second[1]] == [True]


def reads_a_copy_of_its_own(ranks: Ranks, folder: str) -> str:
    """What a rank says whose node has other files than the first's."""
    trial = trial_of(data=DATA if ranks.is_first else DATA.model_copy(update={"train_limit": 200}))
    with pytest.raises(DataError) as raised:
        next(iter(Trainer(trial, folder=Path(folder), ranks=ranks)))
    return str(raised.value)


def test_ranks_that_read_different_data_refuse_to_train_on_it(tmp_path: Path) -> None:
    works = [(work, (str(tmp_path / "run"),)) for work in (reads_a_copy_of_its_own, reads_a_version_of_its_own)]
    for copy, version in run_ranks(several, works, folder=tmp_path / "group"):
        assert "the ranks of the trial read different data" in copy
        assert "the data were changed in their object store" in version


def reads_a_version_of_its_own(ranks: Ranks, folder: str) -> str:
    """What a rank says that has another version of the same bucket."""
    trial = trial_of()
    data = replace(load_training_data(trial.data), version="first" if ranks.is_first else "second")
    with pytest.raises(BucketDown) as raised:
        next(iter(Trainer(trial, folder=Path(folder), data=data, ranks=ranks)))
    return str(raised.value)


def test_more_ranks_than_a_batch_has_images_are_refused() -> None:
    with pytest.raises(SpecError, match="4 ranks train on batches of 2 images"):
        Fit(trial_of(batch_size=3), load_training_data(DATA), device=torch.device("cpu"), ranks=Ranks(0, 4))


def test_a_trial_of_two_ranks_is_not_trained_by_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the trial is of 2 ranks, and 1 train it"):
        Trainer(trial_of(), folder=tmp_path)


def test_batch_statistics_cannot_be_shared_on_a_cpu() -> None:
    with pytest.raises(SpecError, match="sync_batchnorm is true on a CPU"):
        Fit(trial_of(sync_batchnorm=True), load_training_data(DATA), device=torch.device("cpu"), ranks=Ranks(0, 2))
