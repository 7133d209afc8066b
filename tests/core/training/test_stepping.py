from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fixnorm_core.spec import TrainingSpec
from fixnorm_core.training.stepping import Stepper

CPU = torch.device("cpu")
IMAGES = torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 4


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def network(*, normalized: bool) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6) if normalized else nn.GroupNorm(2, 6)
    return nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


def trained(
    *, steps: int = 4, normalized: bool = False, rate: float = 0.1, **training: Any
) -> tuple[nn.Module, Stepper]:
    model = network(normalized=normalized)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    stepper = Stepper(model, optimizer, training=TrainingSpec(**training), device=CPU)
    for _ in range(steps):
        stepper.step(IMAGES, LABELS)
    return model, stepper


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_plain_step_is_backward_and_step_bit_for_bit() -> None:
    model = network(normalized=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        loss = functional.cross_entropy(model(IMAGES), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(weights(trained(normalized=True)[0]), weights(model))


@pytest.mark.parametrize("parts", [2, 4, 7, 30])
def test_accumulation_equals_the_large_batch_where_no_batch_statistics_are(parts: int) -> None:
    torch.testing.assert_close(weights(trained(accumulate=parts)[0]), weights(trained()[0]), rtol=1e-4, atol=1e-6)


def test_accumulated_loss_and_logits_are_those_of_the_whole_batch() -> None:
    whole, parts = (trained(steps=0, accumulate=count)[1].step(IMAGES, LABELS) for count in (1, 4))
    torch.testing.assert_close(parts, whole)


def test_clipping_bounds_the_gradient_and_a_high_bound_changes_nothing() -> None:
    clipped, _ = trained(clip_grad_norm=0.01)
    norm = torch.stack([p.grad.norm() for p in clipped.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)
    assert torch.equal(weights(trained(clip_grad_norm=1e9)[0]), weights(trained()[0]))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_fp32_with_weights_in_fp32(precision: str) -> None:
    half, full, start = trained(precision=precision)[0], trained()[0], network(normalized=False)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    away, moved = (weights(half) - weights(full)).norm(), (weights(full) - weights(start)).norm()
    assert 0 < away < 0.1 * moved


def test_step_whose_fp16_gradients_overflow_is_skipped_and_the_scale_lowered() -> None:
    model, stepper = trained(steps=0, precision="fp16")
    before, scale = weights(model), stepper.state()["scaler"]["scale"]
    stepper.step(IMAGES * 3e4, LABELS)
    assert torch.equal(weights(model), before)
    assert stepper.state()["scaler"]["scale"] == scale / 2


def test_average_is_the_exponential_one_of_the_weights_after_each_step() -> None:
    model, stepper = trained(steps=1, ema_decay=0.8)
    expected = weights(model)
    for _ in range(3):
        stepper.step(IMAGES, LABELS)
        expected = 0.8 * expected + 0.2 * weights(model)
    torch.testing.assert_close(weights(stepper.evaluated), expected)


def test_averaging_does_not_change_the_training() -> None:
    assert torch.equal(weights(trained(ema_decay=0.9)[0]), weights(trained()[0]))


def test_settled_average_has_the_batch_statistics_of_its_own_weights() -> None:
    _, stepper = trained(normalized=True, ema_decay=0.9, rate=1.0)
    convolution, norm = stepper.evaluated.get_submodule("0"), stepper.evaluated.get_submodule("1")
    stepper.settle([IMAGES])
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, convolution(IMAGES).mean(dim=(0, 2, 3)).detach())


def test_without_an_average_the_model_itself_is_evaluated_and_left_alone() -> None:
    model, stepper = trained(normalized=True)
    before = copy.deepcopy(model.state_dict())
    stepper.settle([IMAGES])
    assert stepper.evaluated is model
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_shares_of_classes_that_are_labels_train_as_the_labels_do() -> None:
    shares = functional.one_hot(LABELS, 4).float()
    (loss, _), (expected, _) = (trained(steps=0)[1].step(IMAGES, targets) for targets in (shares, LABELS))
    torch.testing.assert_close(loss, expected)
