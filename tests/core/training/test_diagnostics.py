from __future__ import annotations

import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from fixnorm_core.data.batches import Augmentation, Normalization
from fixnorm_core.data.types import Split, TrainingData
from fixnorm_core.method.roles import Roles, find_roles
from fixnorm_core.models.build import build_model
from fixnorm_core.reports import EpochDiagnostics, EpochReport, TrialResult
from fixnorm_core.spec import Method, ModelSpec, TrialSpec
from fixnorm_core.training.diagnostics import Diagnostics, angles_between
from fixnorm_core.training.fit import Fit
from fixnorm_core.training.optimization import schedule_of
from fixnorm_core.training.risk import boundary_distances, cross_boundary_risk
from fixnorm_core.training.schedule import learning_rate_factor
from fixnorm_core.training.trainer import Trainer
from fixnorm_core.training.weights import load_classifier

MakeTrial = Callable[..., TrialSpec]
ROLES = Roles(
    scale_invariant=("0.weight",),
    head=("2.weight",),
    free=("1.weight", "1.bias", "2.bias"),
    last_gains=("1.weight",),
)


def angle_between(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return angles_between([first], [second])[0]


def watcher(network: nn.Module, roles: Roles, optimizer: torch.optim.Optimizer | None = None) -> Diagnostics:
    optimizer = optimizer or torch.optim.SGD(network.parameters(), lr=0.5)
    return Diagnostics(network, roles, optimizer=optimizer, evaluated=network)


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 3))


@pytest.mark.parametrize("angle", [1e-5, 1e-3, 0.1, 1.5, math.pi])
def test_angles_are_exact_however_small(angle: float) -> None:
    random = torch.Generator().manual_seed(0)
    first, other = torch.randn(2, 500, generator=random)
    other -= first * (first @ other) / first.square().sum()
    turned = 7 * (math.cos(angle) * first / first.norm() + math.sin(angle) * other / other.norm())
    assert float(angle_between(first, turned)) == pytest.approx(angle, rel=2e-3)


def test_a_step_turns_each_role_by_the_angle_of_its_weights(network: nn.Sequential) -> None:
    watch = watcher(network, ROLES)
    watch.begin(steps=1)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    with watch.watching(0), torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape) * 0.1)
    seen = watch.summary()
    after = {name: weight.detach() for name, weight in network.named_parameters()}
    turned = {name: float(angle_between(before[name], after[name])) for name in after}
    assert seen.scale_invariant.rotation == pytest.approx(turned["0.weight"])
    assert seen.head.rotation == pytest.approx(turned["2.weight"])
    # The bias of the normalization was zero, and has no direction to turn from
    assert seen.free.rotation == pytest.approx((turned["1.weight"] + turned["2.bias"]) / 2)
    assert seen.scale_invariant.effective_learning_rate == pytest.approx(0.5 / float(before["0.weight"].norm()) ** 2)
    assert seen.last_gain == pytest.approx(float(after["1.weight"].square().mean().sqrt()))


def trained(network: nn.Sequential, optimizer: torch.optim.Optimizer, *, rates: list[float]) -> EpochDiagnostics:
    """Diagnostics of an epoch of 64 random steps, of which the 8th, 24th, 40th and 56th have these rates."""
    watch = watcher(network, ROLES, optimizer)
    watch.begin(steps=64)
    random = torch.Generator().manual_seed(0)
    for index in range(64):
        optimizer.param_groups[0]["lr"] = rates[index // 16]
        with watch.watching(index):
            for weight in network.parameters():
                weight.grad = torch.randn(weight.shape, generator=random)
            optimizer.step()
        with torch.no_grad():
            network[0].weight.mul_(2.0 / network[0].weight.norm())
    return watch.summary()


def test_the_effective_rate_is_of_the_steps_that_the_rotation_is_of(network: nn.Sequential) -> None:
    seen = trained(network, torch.optim.SGD(network.parameters()), rates=[0.1, 0.01, 0.001, 0.0001])
    assert seen.scale_invariant.effective_learning_rate == pytest.approx(0.1111 / 4 / 4, rel=1e-4)


def test_adams_effective_rate_falls_with_the_norm_and_not_with_its_square(network: nn.Sequential) -> None:
    seen = trained(network, torch.optim.AdamW(network.parameters(), weight_decay=0.0), rates=[0.01] * 4)
    assert seen.scale_invariant.effective_learning_rate == pytest.approx(0.01 / 2, rel=1e-4)
    assert seen.scale_invariant.gradient_norm is None


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_the_gradient_norm_is_told_from_the_rotation(momentum: float, nesterov: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(200, 100, bias=False), nn.BatchNorm1d(100), nn.Linear(100, 3))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=momentum, nesterov=nesterov)
    seen = trained(network, optimizer, rates=[1e-4, 1e-5, 1e-6, 1e-7])
    # Of 20,000 standard normal numbers, at ‖W‖ = 2; the momentum is half built up when it is first measured
    expected = 2 * math.sqrt(20000)
    assert seen.scale_invariant.gradient_norm == pytest.approx(expected, rel=0.05)
    assert seen.head.gradient_norm is None


def test_the_gradient_norm_of_a_real_run_does_not_follow_the_schedule(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    reports = list(Trainer(make_trial(epochs=8), folder=tmp_path, data=small_digits))
    norms = [report.diagnostics.scale_invariant.gradient_norm for report in reports if report.diagnostics]
    known = [norm for norm in norms if norm is not None]
    assert len(known) == 8
    assert max(known) < 2.5 * min(known)
    assert reports[-1].learning_rate < reports[2].learning_rate / 8


@pytest.mark.parametrize(("steps", "measured"), [(1, 1), (7, 1), (32, 2), (100, 4)])
def test_a_few_steps_of_an_epoch_are_measured(network: nn.Sequential, steps: int, measured: int) -> None:
    watch = watcher(network, ROLES)
    watch.begin(steps=steps)
    for index in range(steps):
        with watch.watching(index), torch.no_grad():
            network[0].weight.neg_()
    seen = watch.summary()
    assert seen.scale_invariant.rotation == pytest.approx(math.pi)
    assert len(watch._seen) == measured


def test_the_feature_norm_is_that_of_what_the_head_is_fed(network: nn.Sequential) -> None:
    inputs = torch.randn(10, 6)
    network.eval()
    watch = watcher(network, ROLES)
    watch.begin(steps=1)
    with torch.inference_mode():
        expected = float(network[:2](inputs).norm(dim=1).mean())
        with watch.validating():
            network(inputs[:7])
            network(inputs[7:])
    seen = watch.summary()
    assert seen.feature_norm == pytest.approx(expected)


def test_what_a_model_does_not_have_is_none() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    watch = watcher(network, Roles(scale_invariant=(), head=("0.weight",)))
    watch.begin(steps=1)
    with watch.watching(0), watch.validating():
        network(torch.randn(2, 3, 4, 4))
    seen = watch.summary()
    assert (seen.scale_invariant.rotation, seen.scale_invariant.effective_learning_rate) == (None, None)
    assert (seen.feature_norm, seen.last_gain) == (None, None)
    assert seen.head.rotation == 0.0


def test_the_last_gains_are_those_of_every_branch_of_the_last_sum(
    make_trial: MakeTrial, small_digits: TrainingData
) -> None:
    fit = Fit(make_trial(), small_digits, device=torch.device("cpu"))
    with torch.no_grad():
        for gain, value in (("residual.4", 3.0), ("shortcut.1", 1.0), ("residual.1", 9.0)):
            fit.model.get_parameter(f"stages.2.{gain}.weight").fill_(value)
    fit.train_epoch(1)
    gain = fit.diagnostics().last_gain
    assert gain == pytest.approx(math.sqrt((3**2 + 1**2) / 2), rel=0.1)


@pytest.mark.parametrize("method", list(Method))
def test_every_epoch_of_a_run_is_diagnosed(
    method: Method, make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(method=method)
    trainer = Trainer(trial, folder=tmp_path, data=small_digits)
    for report in trainer:
        seen = report.diagnostics
        assert seen is not None
        assert seen.scale_invariant.rotation is not None
        assert 1e-5 < seen.scale_invariant.rotation < 1
        assert seen.feature_norm is not None
        if method is Method.FIXNORM:  # held at norm 1, so the rate of the measured step is the effective one
            step = 5 * (report.epoch - 1) + 2
            factor = learning_rate_factor(
                step, steps=20, warmup_fraction=trial.training.warmup_fraction, schedule=schedule_of(trial)
            )
            assert seen.scale_invariant.effective_learning_rate == pytest.approx(0.008 * factor, rel=1e-5)
    risk = trainer.result().cross_boundary_risk
    assert risk is not None
    assert 0 < risk < 1


def test_a_resumed_run_is_diagnosed_as_an_uninterrupted_one(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(ema_decay=0.9)
    whole = Trainer(trial, folder=tmp_path / "whole", data=small_digits)
    expected = [report.diagnostics for report in whole]
    list(islice(iter(Trainer(trial, folder=tmp_path / "resumed", data=small_digits)), 2))
    resumed = Trainer(trial, folder=tmp_path / "resumed", data=small_digits)
    assert [report.diagnostics for report in resumed] == expected
    assert resumed.result().cross_boundary_risk == whole.result().cross_boundary_risk


def test_a_diverged_run_has_none(make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path) -> None:
    params = {"lr": 1e30, "weight_decay": 1e-3}
    trainer = Trainer(make_trial(method=Method.WEIGHT_DECAY, params=params), folder=tmp_path, data=small_digits)
    assert list(trainer)[-1].diagnostics is None
    assert trainer.result().cross_boundary_risk is None


def test_reports_of_a_release_without_diagnostics_read_back(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    trainer = Trainer(make_trial(epochs=1), folder=tmp_path, data=small_digits)
    (report,) = trainer
    old = report.model_dump(exclude={"diagnostics"})
    assert EpochReport.model_validate(old).diagnostics is None
    assert EpochReport.model_validate_json(report.model_dump_json()) == report
    assert TrialResult.model_validate(trainer.result().model_dump(exclude={"cross_boundary_risk"}))


def test_a_boundary_is_as_far_as_the_way_to_it() -> None:
    random = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(4, 6, generator=random).double(), torch.randn(4, generator=random).double()
    features = torch.randn(50, 6, generator=random).double()
    labels = (features @ weight.T + bias).argmax(dim=1)
    distances = boundary_distances(features, labels, weight=weight, bias=bias)
    assert (distances > 0).all()
    for feature, label, distance in zip(features, labels, distances, strict=True):
        away = weight[label] - weight
        ways = [away[j] / away[j].norm() for j in range(4) if j != label]
        near, far = (
            {int((weight @ (feature - way * distance * by) + bias).argmax()) for way in ways} for by in (0.999, 1.001)
        )
        assert near == {int(label)}  # no direct way of that length leaves the region
        assert far != {int(label)}
    wrong = (labels + 1) % 4
    assert (boundary_distances(features, wrong, weight=weight, bias=bias) < 0).all()


def test_a_class_with_the_same_weights_has_no_boundary() -> None:
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    found = boundary_distances(torch.tensor([[3.0, 1.0]]), torch.tensor([0]), weight=weight, bias=None)
    assert found.tolist() == [3.0]


@contextmanager
def memory_left(size: int) -> Iterator[None]:
    """Makes allocations fail once they come to so many bytes more than now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_boundaries_of_a_thousand_classes_need_little_memory() -> None:
    random = torch.Generator().manual_seed(0)
    weight, features = torch.randn(1000, 2048, generator=random), torch.randn(20, 2048, generator=random)
    labels = torch.arange(20) * 50
    with memory_left(2**28):  # all differences at once are 16 GB
        found = boundary_distances(features, labels, weight=weight, bias=None)
    away = weight[labels[3]].double() - weight.double()
    ways = [float(way @ features[3].double() / way.norm()) for j, way in enumerate(away) if j != labels[3]]
    assert found[3].item() == pytest.approx(min(ways), rel=1e-12)


def test_a_run_whose_risk_cannot_be_measured_keeps_its_result(
    make_trial: MakeTrial,
    small_digits: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> float:
        raise torch.OutOfMemoryError("no memory left")

    trainer = Trainer(make_trial(epochs=1), folder=tmp_path, data=small_digits)
    monkeypatch.setattr("fixnorm_core.training.risk.boundary_distances", fail)
    list(trainer)
    assert trainer.result().cross_boundary_risk is None
    assert "no memory left" in caplog.text
    assert Trainer(make_trial(epochs=1), folder=tmp_path, data=small_digits).result() == trainer.result()


def test_the_risk_grows_with_what_augmentation_does_and_is_none_without(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    list(Trainer(make_trial(epochs=8), folder=tmp_path, data=small_digits))
    classifier = load_classifier(tmp_path / "weights.safetensors")
    examples = torch.randn(8, 1, 8, 8)
    roles = find_roles(classifier.model, examples)

    def risk(augmentation: Augmentation, model: nn.Module = classifier.model) -> float | None:
        split = Split(small_digits.train.images, small_digits.train.labels)
        normalization = Normalization(small_digits.mean, small_digits.std)
        return cross_boundary_risk(
            model, roles, split=split, augmentation=augmentation, normalization=normalization, seed=0
        )

    little, much = risk(Augmentation(flip=False, shift=1)), risk(Augmentation(flip=True, shift=3))
    assert little is not None
    assert much is not None
    assert 0 < little < much <= 1
    assert risk(Augmentation(flip=False, shift=0)) is None


def test_a_model_without_a_linear_head_has_no_risk() -> None:
    model = build_model(ModelSpec(name="squeezenet1_1"), classes=3, channels=3, image_size=32)
    images = Split(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    roles = Roles(scale_invariant=(), head=("classifier.1.weight",))
    assert (
        cross_boundary_risk(
            model,
            roles,
            split=images,
            augmentation=Augmentation(flip=True, shift=1),
            normalization=Normalization((0.5,) * 3, (0.5,) * 3),
            seed=0,
        )
        is None
    )
