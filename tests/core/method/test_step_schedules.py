from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from fixnorm_core.method.step import FixNorm

IMAGES = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 3
STEPS = 8
MakeScheduler = Callable[[torch.optim.Optimizer], Any]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def _sgd(model: nn.Module) -> torch.optim.SGD:
    """Two groups, so that a schedule that mixes them up is seen."""
    weights, others = ([p for p in model.parameters() if (p.dim() >= 2) == many] for many in (True, False))
    return torch.optim.SGD([{"params": weights, "lr": 0.2}, {"params": others, "lr": 0.1}], lr=0.2, momentum=0.9)


def _warmup_then_cosine(optimizer: torch.optim.Optimizer) -> lr_scheduler.SequentialLR:
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=3)
    return lr_scheduler.SequentialLR(
        optimizer, [warmup, lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)], milestones=[3]
    )


def _chained(optimizer: torch.optim.Optimizer) -> lr_scheduler.ChainedScheduler:
    warmup = lr_scheduler.ConstantLR(optimizer, factor=0.1, total_iters=3)
    return lr_scheduler.ChainedScheduler([warmup, lr_scheduler.ExponentialLR(optimizer, gamma=0.9)])


SCHEDULES: dict[str, MakeScheduler] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.95),
    "step": lambda o: lr_scheduler.StepLR(o, step_size=2),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 5]),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, total_iters=STEPS),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS),
    "cosine with restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, base_lr=0.01, max_lr=0.3, step_size_up=3),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=STEPS + 1),
    "warm-up, then cosine": _warmup_then_cosine,
    "chained": _chained,
    "averaging": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=4),
}


def _settings(optimizer: torch.optim.Optimizer) -> list[tuple[float, float]]:
    return [(group["lr"], group["momentum"]) for group in optimizer.param_groups]


def _train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(IMAGES), LABELS).backward()
    optimizer.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_moves_the_base_as_it_moves_a_plain_optimizer_and_goes_on_after_a_resume(name: str) -> None:
    model = _model()
    twin = copy.deepcopy(model)
    optimizer, plain = FixNorm(_sgd(model), model, example_input=IMAGES), _sgd(twin)
    scheduler, theirs = SCHEDULES[name](optimizer), SCHEDULES[name](plain)
    seen = []

    for step in range(STEPS):
        _train(model, optimizer)
        _train(twin, plain)
        scheduler.step()
        theirs.step()
        assert _settings(optimizer.base) == _settings(plain)
        seen.append(_settings(plain))
        if step == STEPS // 2:
            saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
            optimizer = FixNorm(_sgd(model), model, roles=optimizer.roles, weight_norm="init")
            scheduler = SCHEDULES[name](optimizer)
            optimizer.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])

    assert any(one != seen[0] for one in seen)
    assert float(model.get_parameter("0.weight").detach().norm()) == pytest.approx(1.0, rel=1e-6)


def test_a_schedule_that_watches_a_metric_lowers_the_rate_of_the_base() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)

    for _ in range(3):
        _train(model, optimizer)
        scheduler.step(1.0)

    assert [lr for lr, _ in _settings(optimizer.base)] == pytest.approx([0.1, 0.05])


def test_a_learning_rate_that_is_a_tensor_stays_one() -> None:
    model = _model()
    rate = torch.tensor(0.2)
    base = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, foreach=True)
    optimizer = FixNorm(base, model, example_input=IMAGES)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)

    _train(model, optimizer)
    scheduler.step()

    assert isinstance(base.param_groups[0]["lr"], torch.Tensor)
    assert float(base.param_groups[0]["lr"]) == pytest.approx(0.1)
