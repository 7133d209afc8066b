"""What a batch of not-a-numbers does to a loop that uses FixNorm, and how the loop can guard itself."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fixnorm_core.method.step import FixNorm
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import ModelSpec

IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 4
BROKEN = IMAGES.clone().index_fill_(0, torch.tensor([3]), float("nan"))


def started(*, held: bool = True) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = build_model(ModelSpec(options={"width": 4}), classes=4, channels=1, image_size=8)
    base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return model, FixNorm(base, model, example_input=IMAGES) if held else base


def backward(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss = F.cross_entropy(model(images), LABELS)
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("held", [True, False])
def test_a_nan_in_the_batch_reaches_the_weights_as_it_does_with_the_base_optimizer(held: bool) -> None:
    model, optimizer = started(held=held)
    assert backward(model, BROKEN).isnan()
    optimizer.step()
    assert model.get_parameter("stem.0.weight").isnan().all()  # in plain sight: nothing is patched over
    assert backward(model, IMAGES).isnan()


def test_torchs_own_check_stops_the_loop_with_the_weights_as_they_were() -> None:
    model, _ = started()
    before = copy.deepcopy(dict(model.named_parameters()))
    backward(model, BROKEN)
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_a_gradient_scaler_leaves_such_a_batch_out_and_norms_stay_held() -> None:
    model, optimizer = started()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for images in (IMAGES, BROKEN, IMAGES):
        # BatchNorm has seen the batch before anyone can tell; its running statistics are the loop's to protect
        model.zero_grad()
        scaler.scale(F.cross_entropy(model(images), LABELS)).backward()
        scaler.step(optimizer)
        scaler.update()
    weights = [weight.detach() for weight in model.parameters()]
    assert all(weight.isfinite().all() for weight in weights)
    assert float(model.get_parameter("stem.0.weight").detach().norm()) == pytest.approx(1.0)


def test_a_label_out_of_range_is_torchs_error_before_any_step() -> None:
    model, _ = started()
    with pytest.raises(IndexError, match="out of bounds"):
        F.cross_entropy(model(IMAGES), LABELS + 1)


def test_a_scale_invariant_weight_that_a_loop_sets_to_zero_becomes_nan_at_the_next_step() -> None:
    model, optimizer = started()
    weight = model.get_parameter("stem.0.weight")
    with torch.no_grad():
        weight.zero_()
    optimizer.zero_grad()
    optimizer.step()  # no gradient moves it: there is no direction to hold a norm along
    assert weight.isnan().all()
