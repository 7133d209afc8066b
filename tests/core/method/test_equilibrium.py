"""The formulas against simulation: a scale-invariant weight under random tangential gradients of norm G / ‖W‖."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import nn

import fixnorm_core
from fixnorm_core.errors import SpecError
from fixnorm_core.method.equilibrium import START_FC_NORM, equilibrium_rotation, equivalent_start
from fixnorm_core.method.roles import Roles
from fixnorm_core.method.step import FixNorm
from fixnorm_core.training.diagnostics import angles_between

Name = Literal["sgd", "adamw"]
ELEMENTS = 300


def rotation(
    name: Name, *, lr: float, momentum: float, decay: float = 0.0, held: float | None = None, gradient: float = 1.0
) -> float:
    """Root mean square of the angle a step turns the weight by, once it has settled; of real optimizers."""
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    model = nn.Linear(ELEMENTS // 10, 10, bias=False)
    weight = model.weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=random))
        weight.div_(weight.norm())
    optimizer: torch.optim.Optimizer
    if name == "sgd":
        optimizer = torch.optim.SGD([weight], lr=lr, momentum=momentum, weight_decay=decay)
    else:
        optimizer = torch.optim.AdamW([weight], lr=lr, betas=(momentum, 0.999), weight_decay=decay)
    if held is not None:
        optimizer = FixNorm(optimizer, model, roles=Roles(scale_invariant=("weight",), head=()), weight_norm=held)
    squares = []
    for step in range(4000):
        before = weight.detach().clone()
        noise = torch.randn(weight.shape, generator=random) / math.sqrt(ELEMENTS)
        unit = before / before.norm()
        weight.grad = gradient * (noise - unit * (unit * noise).sum()) / before.norm()
        optimizer.step()
        if step >= 2500:
            squares.append(angles_between([before], [weight.detach()])[0].square())
    return math.sqrt(torch.stack(squares).mean())


@pytest.mark.parametrize(
    ("name", "lr", "decay", "momentum", "within"),
    [("sgd", 0.1, 1e-2, 0.0, 0.01), ("sgd", 0.1, 5e-3, 0.9, 0.01), ("adamw", 5e-3, 0.2, 0.9, 0.05)],
)
def test_a_decaying_weight_turns_as_the_formula_says(
    name: Name, lr: float, decay: float, momentum: float, within: float
) -> None:
    expected = equilibrium_rotation(lr=lr, weight_decay=decay, momentum=momentum, optimizer=name)
    assert rotation(name, lr=lr, momentum=momentum, decay=decay) == pytest.approx(expected, rel=within)


@pytest.mark.parametrize(
    ("name", "lr", "decay", "momentum", "norm", "gradient"),
    [
        ("sgd", 0.1, 1e-2, 0.0, 1.0, 1.0),
        ("sgd", 0.1, 5e-3, 0.9, 1.0, 1.0),
        ("sgd", 0.1, 5e-3, 0.9, 3.0, 0.5),
        ("sgd", 0.1, 5e-3, 0.5, 0.5, 2.0),
        ("adamw", 5e-3, 0.1, 0.9, 1.0, 1.0),
        ("adamw", 5e-3, 0.1, 0.9, 4.0, 7.0),
    ],
)
def test_the_equivalent_learning_rate_turns_a_held_weight_as_far(
    name: Name, lr: float, decay: float, momentum: float, norm: float, gradient: float
) -> None:
    start = equivalent_start(
        lr=lr,
        weight_decay=decay,
        momentum=momentum,
        weight_norm=norm,
        gradient_norm=gradient,
        optimizer=name,
        elements=ELEMENTS,
    )
    expected = equilibrium_rotation(lr=lr, weight_decay=decay, momentum=momentum, optimizer=name)
    found = rotation(name, lr=start["lr"], momentum=momentum, held=norm, gradient=gradient)
    assert found == pytest.approx(expected, rel=0.03)


def test_strong_steps_with_momentum_turn_a_held_weight_less_by_what_the_module_says() -> None:
    expected = equilibrium_rotation(lr=0.1, weight_decay=1e-2, momentum=0.9)
    start = equivalent_start(lr=0.1, weight_decay=1e-2, momentum=0.9)
    shortfall = 1 - rotation("sgd", lr=start["lr"], momentum=0.9, held=1.0) / expected
    assert shortfall == pytest.approx((expected * 0.9 / 0.1) ** 2 / 2, abs=0.015)


def test_the_start_is_a_whole_point_of_the_search_and_is_exported() -> None:
    start = fixnorm_core.equivalent_start(lr=0.125, weight_decay=6.4e-3, momentum=0.9)
    assert start == {"lr": pytest.approx(math.sqrt(1.6e-4)), "fc_norm": START_FC_NORM}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"lr": 0.0}, "lr is 0"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001"),
        ({"momentum": 1.0}, "momentum is 1; it must be in"),
        ({"weight_norm": math.inf}, "weight_norm is inf"),
        ({"gradient_norm": math.nan}, "gradient_norm is nan"),
        ({"optimizer": "adamw"}, "depends on the size of a held weight"),
    ],
)
def test_a_value_out_of_range_is_named(changes: dict[str, float], rule: str) -> None:
    with pytest.raises(SpecError, match=rule):
        equivalent_start(**({"lr": 0.1, "weight_decay": 1e-3, "momentum": 0.9} | changes))  # type: ignore[arg-type]
