from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fixnorm_core.method.step import FixNorm, OptimizerError
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import ModelSpec

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 4


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _model() -> nn.Module:
    return build_model(ModelSpec(options={"width": 8}), classes=4, channels=1, image_size=8)


def _sgd(model: nn.Module, lr: float = 0.2) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5, *, amp: bool = False) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            loss = F.cross_entropy(model(IMAGES), LABELS)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def _assert_held(model: nn.Module, optimizer: FixNorm) -> None:
    for name in optimizer.roles.scale_invariant:
        assert float(model.get_parameter(name).detach().norm()) == pytest.approx(1.0, rel=1e-6), name


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_made_together_with_its_model_trains_on_alike_and_apart(how: Any) -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES, fc_norm=1.2, momentum_radial="remove")
    _train(model, optimizer, 3)
    before = [p.detach().clone() for p in model.parameters()]

    twin, twins_optimizer = how((model, optimizer))

    twin_losses = _train(twin, twins_optimizer)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert twin_losses == _train(model, optimizer)
    twins_optimizer.load_state_dict(optimizer.state_dict())
    assert twins_optimizer.param_groups is twins_optimizer.base.param_groups
    _assert_held(twin, twins_optimizer)


def test_a_base_optimizers_state_loaded_into_the_base_is_shared() -> None:
    model = _model()
    plain = _sgd(model, lr=0.05)
    _train(model, plain, 3)
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES)

    optimizer.base.load_state_dict(plain.state_dict())

    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.state is optimizer.base.state
    assert optimizer.param_groups[0]["lr"] == 0.05
    stem = model.get_parameter("stem.0.weight")
    assert torch.equal(optimizer.state[stem]["momentum_buffer"], plain.state[stem]["momentum_buffer"])
    _train(model, optimizer, 2)
    _assert_held(model, optimizer)


def test_a_loaded_state_cannot_bring_weight_decay_back() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES)
    decaying = torch.optim.SGD(model.parameters(), lr=9.0, weight_decay=1e-3)

    with pytest.raises(OptimizerError, match=r"weight_decay 0\.001"):
        optimizer.base.load_state_dict(decaying.state_dict())

    assert optimizer.base.param_groups[0]["lr"] == 0.2


def test_an_added_group_is_trained_free_and_without_decay() -> None:
    model, extra = _model(), nn.Parameter(torch.ones(3, 2))
    base = torch.optim.AdamW([{"params": model.parameters(), "weight_decay": 0.0}], lr=0.02)  # its default is 0.01
    optimizer = FixNorm(base, model, example_input=IMAGES)

    optimizer.add_param_group({"params": [extra], "lr": 0.5})
    extra.grad = torch.ones_like(extra)
    optimizer.step()

    assert optimizer.base.param_groups[1]["weight_decay"] == 0.0
    assert float(extra.detach().mean()) == pytest.approx(0.5, abs=1e-4)
    with pytest.raises(OptimizerError, match=r"added group has weight_decay 0\.1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.1})


def test_groups_with_rates_of_their_own_are_stepped_each_at_its_own() -> None:
    model = _model()
    head = [p for name, p in model.named_parameters() if name.startswith("head")]
    body = [p for name, p in model.named_parameters() if not name.startswith("head")]
    base = torch.optim.SGD([{"params": body, "lr": 0.1}, {"params": head, "lr": 0.0}], lr=0.1)
    optimizer = FixNorm(base, model, example_input=IMAGES)
    before = head[0].detach().clone()
    stem = model.get_parameter("stem.0.weight").detach().clone()

    _train(model, optimizer, 2)

    assert torch.equal(head[0], before)
    assert not torch.allclose(model.get_parameter("stem.0.weight"), stem)


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_of_a_gradient_scaler_leaves_every_parameter(fused: bool) -> None:
    model = _model()
    base = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0, fused=fused)
    optimizer = FixNorm(base, model, example_input=IMAGES, fc_norm=1.0, momentum_radial="remove")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [p.detach().clone() for p in model.parameters()]

    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(IMAGES), LABELS) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        same = all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        assert same == (factor != 1.0)

    _assert_held(model, optimizer)


def test_under_autocast_the_fp32_weights_are_held() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES)

    losses = _train(model, optimizer, 10, amp=True)

    assert losses[-1] < losses[0]
    assert all(p.dtype is torch.float32 for p in model.parameters())
    _assert_held(model, optimizer)


def test_lbfgs_evaluates_its_closure_many_times_and_the_norms_hold() -> None:
    model = _model()
    base = torch.optim.LBFGS(model.parameters(), lr=0.05, max_iter=5)
    optimizer = FixNorm(base, model, example_input=IMAGES, fc_norm=1.5)
    losses: list[float] = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(IMAGES), LABELS)
        loss.backward()
        losses.append(float(loss.detach()))
        return losses[-1]

    returned = [optimizer.step(closure) for _ in range(3)]

    assert len(losses) > 2 * len(returned)
    assert returned[0] == losses[0]
    assert returned[-1] < returned[0]
    _assert_held(model, optimizer)


def test_hooks_run_once_each_around_the_step_on_it_and_on_its_base() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.base.register_step_pre_hook(lambda *_: seen.append("before the base"))
    optimizer.base.register_step_post_hook(lambda *_: seen.append("after the base"))
    handle = optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))

    _train(model, optimizer, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    handle.remove()
    _train(model, optimizer, 1)

    steps = ["before", "before the base", "after the base"]
    assert seen == [*steps, "after", "loaded", *steps]


def test_a_plain_optimizer_takes_its_state_over() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model, lr=0.05), model, example_input=IMAGES)
    _train(model, optimizer, 3)
    twin = copy.deepcopy(model)
    plain = _sgd(twin)

    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    _train(twin, plain, 1)
    _train(model, optimizer.base, 1)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(twin.parameters(), model.parameters(), strict=True))
