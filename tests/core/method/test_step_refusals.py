from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from fixnorm_core.errors import FixNormError, RolesError, WeightsError
from fixnorm_core.method.roles import Roles
from fixnorm_core.method.step import FixNorm, OptimizerError
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import ModelSpec

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _model(norm: str = "batch") -> nn.Module:
    return build_model(ModelSpec(options={"width": 8, "norm": norm}), classes=4, channels=1, image_size=8)


def _sgd(model: nn.Module, lr: float = 0.2) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def test_a_foreign_state_is_refused_and_changes_nothing() -> None:
    model = _model()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES, fc_norm=1.3)
    without_bound = FixNorm(_sgd(model, lr=9.0), model, roles=optimizer.roles).state_dict()

    with pytest.raises(WeightsError, match="plain optimizer"):
        optimizer.load_state_dict(_sgd(model, lr=9.0).state_dict())
    with pytest.raises(WeightsError, match=r"head\.weight"):
        optimizer.load_state_dict(without_bound)

    assert optimizer.param_groups[0]["lr"] == 0.2


def _zero_weight(model: nn.Module) -> None:
    nn.init.zeros_(model.get_parameter("stem.0.weight"))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"fc_norm": 0.0}, OptimizerError, ["fc_norm is 0.0", "above zero"]),
        ({"fc_norm": float("nan")}, OptimizerError, ["fc_norm is nan"]),
        ({"weight_norm": -1.0}, OptimizerError, ["weight_norm is -1.0", "above zero"]),
        ({"weight_norm": "start"}, OptimizerError, ["'start'"]),
        ({"example_input": None}, OptimizerError, ["neither example_input nor roles"]),
        ({"roles": Roles(scale_invariant=("nope",), head=())}, RolesError, ["'nope'", "find_roles"]),
    ],
)
def test_a_setting_out_of_range_is_refused(
    arguments: dict[str, Any], error: type[FixNormError], words: list[str]
) -> None:
    model = _model()

    with pytest.raises(error) as caught:
        FixNorm(_sgd(model), model, **({"example_input": IMAGES} | arguments))

    for word in words:
        assert word in str(caught.value)


def test_weight_decay_in_any_group_is_refused() -> None:
    model = _model()
    parameters = list(model.parameters())
    base = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "weight_decay": 5e-4}], lr=0.1)

    with pytest.raises(OptimizerError, match=r"weight_decay 0\.0005.*weight_decay=0"):
        FixNorm(base, model, example_input=IMAGES)


def test_an_optimizer_of_another_model_is_refused() -> None:
    model = _model()

    with pytest.raises(OptimizerError, match="none of the weights"):
        FixNorm(_sgd(copy.deepcopy(model)), model, example_input=IMAGES)


def test_a_scale_invariant_weight_of_zeros_is_refused_by_name() -> None:
    model = _model()
    _zero_weight(model)

    with pytest.raises(RolesError, match=r"stem\.0\.weight has norm 0"):
        FixNorm(_sgd(model), model, example_input=IMAGES)
