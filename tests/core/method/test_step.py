from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fixnorm_core.method.roles import find_roles
from fixnorm_core.method.step import FixNorm
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import ModelSpec

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 4
BASES: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.2, momentum=0.9, nesterov=True),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.02, weight_decay=0.0),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _model(norm: str = "batch") -> nn.Module:
    return build_model(ModelSpec(options={"width": 8, "norm": norm}), classes=4, channels=1, image_size=8)


def _sgd(model: nn.Module, lr: float = 0.2) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(IMAGES), LABELS)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("base", sorted(BASES))
def test_switched_off_it_is_the_base_optimizer_bit_for_bit(base: str) -> None:
    model = _model()
    twin = copy.deepcopy(model)
    optimizer = FixNorm(BASES[base](model), model, example_input=IMAGES, fc_norm=None, weight_norm=None)

    assert _train(model, optimizer, 10) == _train(twin, BASES[base](twin), 10)

    for ours, theirs in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize("weight_norm", [1.0, 3.5, "init"])
def test_every_scale_invariant_weight_keeps_its_norm(base: str, weight_norm: Any) -> None:
    model = _model()
    at_start = {name: float(p.detach().norm()) for name, p in model.named_parameters()}
    optimizer = FixNorm(BASES[base](model), model, example_input=IMAGES, weight_norm=weight_norm)

    _train(model, optimizer, 20)

    for name in optimizer.roles.scale_invariant:
        expected = at_start[name] if weight_norm == "init" else weight_norm
        assert float(model.get_parameter(name).detach().norm()) == pytest.approx(expected, rel=1e-6)


def test_the_head_grows_up_to_its_bound_and_no_further() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES, fc_norm=1.5)
    started = float(optimizer.head_norm())
    norms = []
    for _ in range(30):
        _train(model, optimizer, 1)
        norms.append(float(optimizer.head_norm()))

    assert optimizer.head_bound == pytest.approx(1.5 * started)
    assert max(norms) <= 1.5 * started * (1 + 1e-6)
    assert norms[-1] == pytest.approx(1.5 * started)
    assert norms[0] < 1.4 * started


def test_a_bound_that_is_never_reached_changes_nothing() -> None:
    model = _model()
    twin = copy.deepcopy(model)

    free = _train(twin, FixNorm(_sgd(twin), twin, example_input=IMAGES), 8)

    assert _train(model, FixNorm(_sgd(model), model, example_input=IMAGES, fc_norm=100.0), 8) == free


def test_a_bound_below_one_holds_from_the_start() -> None:
    model = _model()
    norm = float(model.get_parameter("head.weight").detach().norm())

    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES, fc_norm=0.5)

    assert float(optimizer.head_norm()) == pytest.approx(0.5 * norm)


def test_a_head_of_zeros_takes_the_norm_of_torchs_default_initialisation_as_its_unit() -> None:
    model = _model()
    nn.init.zeros_(model.get_parameter("head.weight"))
    drawn = torch.stack([nn.Linear(32, 4).weight.detach().norm() for _ in range(50)]).mean()

    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES, fc_norm=1.0)

    assert optimizer.head_bound == pytest.approx(float(drawn), rel=0.05)
    _train(model, optimizer, 3)
    assert float(optimizer.head_norm()) > 0


@pytest.mark.parametrize("base", sorted(BASES))
def test_the_multi_tensor_step_equals_one_weight_at_a_time(base: str) -> None:
    model = _model()
    optimizer = FixNorm(BASES[base](model), model, example_input=IMAGES, fc_norm=1.2)
    twin = copy.deepcopy(model)
    plain, bound = BASES[base](twin), optimizer.head_bound
    assert bound is not None

    for _ in range(10):
        _train(model, optimizer, 1)
        _train(twin, plain, 1)
        with torch.no_grad():
            for name in optimizer.roles.scale_invariant:
                twin.get_parameter(name).mul_(1.0 / twin.get_parameter(name).norm())
            head = twin.get_parameter("head.weight")
            head.mul_(torch.clamp(bound / head.norm(), max=1.0))

    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_saved_and_loaded_run_continues_bit_for_bit() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES, fc_norm=1.3, weight_norm="init")
    _train(model, optimizer, 5)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = _model()
    resumed_optimizer = FixNorm(_sgd(resumed, lr=7.0), resumed, example_input=IMAGES, fc_norm=9.0, weight_norm="init")

    resumed.load_state_dict(saved["model"])
    resumed_optimizer.load_state_dict(saved["optimizer"])

    assert resumed_optimizer.head_bound == optimizer.head_bound
    assert resumed_optimizer.param_groups[0]["lr"] == 0.2
    assert _train(resumed, resumed_optimizer, 5) == _train(model, optimizer, 5)
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_scheduler_moves_the_learning_rate_that_the_base_uses() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)

    _train(model, optimizer, 1)
    scheduler.step()

    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.1)
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_closure_is_evaluated_and_its_loss_returned() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES)
    losses = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(IMAGES), LABELS)
        loss.backward()
        losses.append(float(loss.detach()))
        return losses[-1]

    assert optimizer.step(closure) == losses[0]
    assert float(model.get_parameter("stem.0.weight").detach().norm()) == pytest.approx(1.0)


def test_hooks_run_on_it_and_see_projected_weights() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES)
    seen: list[float] = []
    optimizer.register_step_post_hook(
        lambda *_: seen.append(float(model.get_parameter("stem.0.weight").detach().norm()))
    )
    optimizer.register_state_dict_post_hook(lambda _optimizer, state: {**state, "mine": 1})

    _train(model, optimizer, 2)

    assert seen == pytest.approx([1.0, 1.0])
    assert optimizer.state_dict()["mine"] == 1


def test_a_gradient_scaler_drives_it_and_skips_a_step_with_infinite_gradients() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = copy.deepcopy(model.get_parameter("stem.0.weight"))

    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(IMAGES), LABELS) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model.get_parameter("stem.0.weight"), before) == (factor != 1.0)

    assert float(model.get_parameter("stem.0.weight").detach().norm()) == pytest.approx(1.0)


class _NoScalars(TorchDispatchMode):
    """Refuses to read a tensor's value back to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default
        assert func is not torch.ops.aten.is_nonzero.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "filter"])
def test_the_step_never_waits_for_a_tensors_value(granularity: Any, foreach: bool) -> None:
    model = _model()
    optimizer = FixNorm(
        _sgd(model),
        model,
        example_input=IMAGES,
        fc_norm=1.1,
        granularity=granularity,
        momentum_radial="remove",
        foreach=foreach,
    )
    F.cross_entropy(model(IMAGES), LABELS).backward()

    with _NoScalars():
        optimizer.step()
        optimizer.step()
        optimizer.head_norm()
        with pytest.raises(AssertionError):
            float(optimizer.head_norm())


def test_weights_of_several_dtypes_are_held_each_in_its_own() -> None:
    model = _model()
    roles = find_roles(model, IMAGES)
    model.get_submodule("stages").double()
    model.get_submodule("stem").bfloat16()
    optimizer = FixNorm(_sgd(model), model, roles=roles)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)

    optimizer.step()

    for name in roles.scale_invariant:
        weight = model.get_parameter(name).detach()
        tolerance = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 1e-2}[weight.dtype]
        assert float(weight.double().norm()) == pytest.approx(1.0, rel=tolerance)
