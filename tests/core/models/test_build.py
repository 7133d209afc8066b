from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fixnorm_core.errors import ModelError
from fixnorm_core.models.build import build_model
from fixnorm_core.models.catalog import MODELS
from fixnorm_core.spec import ModelSpec

ONE_OF_EACH_FAMILY = {
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 96,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v2_scaled": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "small_resnet": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "vit_b_16": 32,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", sorted(ONE_OF_EACH_FAMILY))
def test_every_family_takes_small_images_of_one_channel(name: str) -> None:
    size = ONE_OF_EACH_FAMILY[name]

    model = build_model(ModelSpec(name=name), classes=7, channels=1, image_size=size)

    assert model.training
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", sorted(n for n in ONE_OF_EACH_FAMILY if MODELS[n].options))
def test_every_option_in_the_catalogue_reaches_the_factory(name: str) -> None:
    values = {"width": 8, "blocks": 2, "norm": "group", "round_nearest": 4, "memory_efficient": False}
    values |= {"zero_init_residual": True, "width_mult": 0.5}
    options = {option: values.get(option, 0.125) for option in MODELS[name].options}

    size = ONE_OF_EACH_FAMILY[name]
    model = build_model(ModelSpec(name=name, options=options), classes=2, channels=3, image_size=size)

    with torch.no_grad():
        assert model.eval()(torch.randn(2, 3, size, size)).shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "stem"),
    [(name, stem) for name in ("resnet18", "mobilenet_v2", "densenet121") for stem in ("small", "imagenet")],
)
def test_the_small_stem_keeps_the_resolution_that_the_imagenet_stem_divides_by_two_or_four(
    name: str, stem: str
) -> None:
    model = build_model(ModelSpec(name=name, stem=stem), classes=3, channels=3, image_size=64)
    sizes = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, output: sizes.append(output.shape[-1]))

    with torch.no_grad():
        model.eval()(torch.randn(1, 3, 64, 64))

    assert sizes[:2] == {"small": [64, 64], "imagenet": [32, 32 if name == "mobilenet_v2" else 16]}[stem]


def test_the_automatic_stem_is_small_for_small_images_only() -> None:
    small, large = (
        build_model(ModelSpec(name="resnet18"), classes=3, channels=3, image_size=size) for size in (64, 96)
    )

    assert small.get_submodule("conv1").stride == (1, 1)
    assert large.get_submodule("conv1").stride == (2, 2)


def test_a_rebuilt_first_convolution_has_the_spread_that_resnets_own_initialisation_would_give() -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec(name="resnet18"), classes=3, channels=3, image_size=32)

    assert float(model.get_parameter("conv1.weight").detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("name", "size"), [("vit_b_16", 28), ("inception_v3", 32), ("maxvit_t", 32), ("alexnet", 32)])
def test_images_that_a_network_cannot_take_are_refused_when_it_is_built(name: str, size: int) -> None:
    with pytest.raises(ModelError, match=rf"{name}.*{size} x {size} pixels.*image_size"):
        build_model(ModelSpec(name=name), classes=3, channels=3, image_size=size)


def test_the_same_seed_gives_the_same_weights() -> None:
    def build() -> nn.Module:
        torch.manual_seed(3)
        return build_model(ModelSpec(name="mobilenet_v3_small"), classes=3, channels=1, image_size=32)

    first, second = build().state_dict(), build().state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_small_resnet_learns_digit_sized_images_fast(norm: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec(options={"norm": norm}), classes=2, channels=1, image_size=8)
    labels = torch.arange(256) % 2
    images = torch.randn(256, 1, 8, 8) + labels[:, None, None, None] * torch.linspace(-1, 1, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    losses = []

    started = time.perf_counter()
    for _ in range(6):
        for batch in torch.arange(256).split(64):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))

    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert time.perf_counter() - started < 10
