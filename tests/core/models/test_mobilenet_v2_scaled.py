"""The scaled MobileNetV2 costs what EfficientNet-B0 costs, has its tricks, and is split into roles rightly."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fixnorm_core.method.roles import find_roles
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import ModelSpec
from fixnorm_core.vision import torchvision

SCALED = ModelSpec(name="mobilenet_v2_scaled")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def imagenet_sized(spec: ModelSpec) -> nn.Module:
    return build_model(spec, classes=1000, channels=3, image_size=224)


def flops(model: nn.Module) -> int:
    """Of one image of 224 x 224 pixels, by torch's own counter; shapes alone decide it."""
    with FlopCounterMode(display=False) as counter:
        model.to("meta").eval()(torch.empty(1, 3, 224, 224, device="meta"))
    return counter.get_total_flops()


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def test_it_costs_as_many_flops_as_efficientnet_b0_to_two_percent() -> None:
    ratio = flops(imagenet_sized(SCALED)) / flops(imagenet_sized(ModelSpec(name="efficientnet_b0")))
    assert ratio == pytest.approx(1, abs=0.02)


def test_it_is_mobilenet_v2s_table_with_efficientnets_tricks() -> None:
    ours = imagenet_sized(ModelSpec(name="mobilenet_v2_scaled", options={"width_mult": 1.0}))
    plain = imagenet_sized(ModelSpec(name="mobilenet_v2"))
    excite = torchvision.ops.SqueezeExcitation
    inside = {name for name, module in ours.named_modules() if isinstance(module, excite)}
    table = [
        (module.in_channels, module.out_channels, module.kernel_size, module.stride, module.groups)
        for name, module in ours.named_modules()
        if isinstance(module, nn.Conv2d) and not any(name.startswith(f"{outer}.") for outer in inside)
    ]
    expected = [
        (module.in_channels, module.out_channels, module.kernel_size, module.stride, module.groups)
        for module in plain.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert table == expected
    assert count(ours, excite) == count(ours, torchvision.ops.StochasticDepth) == 17
    assert (count(ours, nn.ReLU6), count(ours, nn.ReLU)) == (0, 0)


def test_its_options_reach_the_network() -> None:
    options = {"dropout": 0.3, "stochastic_depth_prob": 0.1, "width_mult": 0.5}
    model = build_model(ModelSpec(name="mobilenet_v2_scaled", options=options), classes=10, channels=3, image_size=224)
    skipped = [module.p for module in model.modules() if isinstance(module, torchvision.ops.StochasticDepth)]
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.3]
    assert skipped == pytest.approx([0.1 * block / 17 for block in range(17)])
    assert model.get_parameter("features.0.0.weight").shape[0] == 16


@pytest.mark.parametrize("size", [32, 64])
def test_what_a_batchnorm_follows_is_held_and_squeeze_excite_is_free(size: int) -> None:
    model = build_model(SCALED, classes=10, channels=3, image_size=size)
    blocks = [
        (f"{name}.0.weight", module)
        for name, module in model.named_modules()
        if isinstance(module, torchvision.ops.Conv2dNormActivation)
    ]
    assert all(isinstance(module[1], nn.BatchNorm2d) for _, module in blocks)
    roles = find_roles(model, torch.randn(4, 3, size, size))

    assert set(roles.scale_invariant) == {name for name, _ in blocks}
    assert roles.head == ("classifier.1.weight",)
    weights = {name for name, parameter in model.named_parameters() if parameter.dim() >= 2}
    excite = weights - set(roles.scale_invariant) - set(roles.head)
    assert len(excite) == 2 * 17
    assert all(name.split(".")[-2] in {"fc1", "fc2"} for name in excite)
    assert max(roles.shares[name] for name in roles.scale_invariant) < 1e-13
    assert min(roles.shares[name] for name in excite) > 1e-4
