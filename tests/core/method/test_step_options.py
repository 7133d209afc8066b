from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fixnorm_core.errors import RolesError, WeightsError
from fixnorm_core.method.roles import Roles
from fixnorm_core.method.step import FixNorm, OptimizerError
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


def _model() -> nn.Module:
    return build_model(ModelSpec(options={"width": 8}), classes=4, channels=1, image_size=8)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(IMAGES), LABELS)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def _filters(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().flatten(1).norm(dim=1)


@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize("granularity", ["tensor", "filter"])
@pytest.mark.parametrize("momentum_radial", ["keep", "remove"])
def test_the_multi_tensor_path_equals_the_single_tensor_path_bit_for_bit(
    base: str, granularity: Any, momentum_radial: Any
) -> None:
    ends = []
    for foreach in (True, False):
        torch.manual_seed(0)
        model = _model()
        optimizer = FixNorm(
            BASES[base](model),
            model,
            example_input=IMAGES,
            fc_norm=1.2,
            granularity=granularity,
            momentum_radial=momentum_radial,
            foreach=foreach,
        )
        ends.append((_train(model, optimizer, 8), [p.detach().clone() for p in model.parameters()]))

    (losses, weights), (reference_losses, reference) = ends
    assert losses == reference_losses
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, reference, strict=True))


def test_per_filter_every_filter_has_its_share_and_the_whole_has_the_norm() -> None:
    model = _model()
    optimizer = FixNorm(BASES["sgd"](model), model, example_input=IMAGES, weight_norm=3.0, granularity="filter")

    _train(model, optimizer, 10)

    for name in optimizer.roles.scale_invariant:
        weight = model.get_parameter(name)
        torch.testing.assert_close(_filters(weight), torch.full((len(weight),), 3.0 / len(weight) ** 0.5))
        assert float(weight.detach().norm()) == pytest.approx(3.0, rel=1e-6)


def test_per_filter_with_init_every_filter_keeps_its_own_norm() -> None:
    model = _model()
    before = {name: _filters(p).clone() for name, p in model.named_parameters() if p.dim() == 4}
    optimizer = FixNorm(BASES["sgd"](model), model, example_input=IMAGES, weight_norm="init", granularity="filter")

    _train(model, optimizer, 10)

    assert len(before) == len(optimizer.roles.scale_invariant)
    for name, norms in before.items():
        torch.testing.assert_close(_filters(model.get_parameter(name)), norms)


def test_per_filter_rescaling_keeps_a_trained_networks_function_in_both_modes() -> None:
    model = _model()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-12
    for _ in range(5):
        model(torch.randn(16, 1, 8, 8) + 0.5)
    twin = copy.deepcopy(model)

    FixNorm(BASES["sgd"](model), model, example_input=IMAGES, granularity="filter")

    for mode in (True, False):
        model.train(mode), twin.train(mode)
        torch.testing.assert_close(model(IMAGES), twin(IMAGES), rtol=1e-3, atol=1e-4)


def test_a_filter_of_zeros_is_refused_by_name_and_number() -> None:
    model = _model()
    model.get_parameter("stem.0.weight").data[3] = 0

    with pytest.raises(RolesError, match=r"filter 3 of .*stem\.0\.weight has norm 0"):
        FixNorm(BASES["sgd"](model), model, example_input=IMAGES, granularity="filter")


@pytest.mark.parametrize(("base", "buffer"), [("sgd", "momentum_buffer"), ("adamw", "exp_avg")])
@pytest.mark.parametrize("granularity", ["tensor", "filter"])
def test_removing_leaves_only_momentum_at_right_angles_to_held_weights(
    base: str, buffer: str, granularity: Any
) -> None:
    def radial(momentum_radial: Any) -> tuple[float, float]:
        torch.manual_seed(0)
        model = _model()
        optimizer = FixNorm(
            BASES[base](model), model, example_input=IMAGES, granularity=granularity, momentum_radial=momentum_radial
        )
        _train(model, optimizer, 5)

        def cosine(name: str) -> float:
            weight = model.get_parameter(name)
            ours, momentum = weight.detach().flatten(1), optimizer.state[weight][buffer].flatten(1)
            if granularity == "tensor":
                ours, momentum = ours.flatten(), momentum.flatten()
            return float(F.cosine_similarity(ours, momentum, dim=-1).abs().max())

        return max(cosine(name) for name in optimizer.roles.scale_invariant), cosine("head.weight")

    held, head = radial("remove")
    assert held < 1e-5
    assert head > 1e-3
    assert radial("keep")[0] > 1e-3


def test_removing_from_a_base_without_momentum_is_refused() -> None:
    model = _model()

    with pytest.raises(OptimizerError, match="SGD has no momentum"):
        FixNorm(torch.optim.SGD(model.parameters(), lr=0.1), model, example_input=IMAGES, momentum_radial="remove")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"granularity": "layer"}, "granularity is 'layer'"), ({"momentum_radial": "half"}, "momentum_radial is 'half'")],
)
def test_an_option_that_does_not_exist_is_refused(arguments: dict[str, Any], words: str) -> None:
    model = _model()

    with pytest.raises(OptimizerError, match=words):
        FixNorm(BASES["sgd"](model), model, example_input=IMAGES, **arguments)


def test_a_state_of_the_other_granularity_is_refused() -> None:
    model = _model()
    by_tensor = FixNorm(BASES["sgd"](model), model, example_input=IMAGES)
    by_filter = FixNorm(BASES["sgd"](model), model, roles=by_tensor.roles, granularity="filter")

    with pytest.raises(WeightsError, match=r"stem\.0\.weight by 8 norm\(s\), this optimizer by 1"):
        by_tensor.load_state_dict(by_filter.state_dict())


def test_a_held_weight_without_a_gradient_keeps_its_value() -> None:
    model = _model()
    optimizer = FixNorm(BASES["sgd"](model), model, example_input=IMAGES)
    stem = model.get_parameter("stem.0.weight")
    before = stem.detach().clone()

    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), LABELS).backward()
        stem.grad = None
        optimizer.step()

    torch.testing.assert_close(stem.detach(), before, rtol=1e-6, atol=0)


def test_lazy_parameters_are_refused_with_roles_by_hand_too() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))

    with pytest.raises(RolesError, match=r"0\.weight has no values yet"):
        FixNorm(
            torch.optim.SGD(model.parameters(), lr=0.1), model, roles=Roles(("0.weight",), ("3.weight",)), fc_norm=1.0
        )
