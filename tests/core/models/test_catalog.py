from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fixnorm_core.errors import ModelError
from fixnorm_core.method.roles import find_roles
from fixnorm_core.models.build import build_model
from fixnorm_core.models.catalog import MODELS, check_method, check_model
from fixnorm_core.spec import Method, ModelSpec
from fixnorm_core.vision import torchvision


def test_it_names_exactly_torchvisions_classifiers_and_ours() -> None:
    torchvisions = set(torchvision.models.list_models(module=torchvision.models))

    assert set(MODELS) == torchvisions | {"small_resnet", "mobilenet_v2_scaled"}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_known_model_passes_the_check(name: str) -> None:
    check_model(ModelSpec(name=name))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ModelSpec(name="resnet8"), ["'resnet8'", "Did you mean", "resnet18"]),
        (ModelSpec(name="qqqq"), ["'qqqq'", "fixnorm-tune models"]),
        (ModelSpec(name="mobilenet_v2", options={"drop_out": 0.1}), ["drop_out", "Did you mean", "dropout"]),
        (ModelSpec(name="regnet_y_400mf", options={"width": 1}), ["'width'", "no options", "Remove"]),
        (ModelSpec(name="vit_b_16", stem="small"), ["vit_b_16", "no small stem", "resnet18"]),
        (ModelSpec(options={"width": 0}), ["width", "0", "from 1 to"]),
        (ModelSpec(options={"width": True}), ["width", "True", "whole number"]),
        (ModelSpec(options={"blocks": 1.5}), ["blocks", "1.5", "whole number"]),
        (ModelSpec(options={"norm": "layer"}), ["'layer'", "batch or group"]),
        (ModelSpec(name="mobilenet_v2_scaled", options={"width_mult": 0}), ["width_mult", "0", "from 0.1 to 8"]),
        (ModelSpec(name="mobilenet_v2_scaled", options={"dropout": 1.0}), ["dropout", "1.0", "below 1"]),
        (ModelSpec(name="mobilenet_v2_scaled", options={"stochastic_depth_prob": True}), ["True", "a share"]),
        (ModelSpec(name="mobilenet_v2_scaled", options={"width_mult": "wide"}), ["'wide'", "a factor"]),
    ],
)
def test_a_model_that_cannot_exist_is_refused_with_the_value_and_the_way_out(spec: ModelSpec, words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        check_model(spec)

    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "like"),
    [("alexnet", "vgg11_bn"), ("squeezenet1_1", "resnet18"), ("vgg16", "vgg16_bn"), ("vit_b_16", "swin_v2_t")],
)
def test_a_model_with_no_norm_to_hold_is_refused_for_fixnorm_alone(name: str, like: str) -> None:
    check_method(ModelSpec(name=name), Method.WEIGHT_DECAY)
    check_method(ModelSpec(name=like), Method.FIXNORM)
    with pytest.raises(ModelError, match=f"search.method fixnorm.*{like}.*search.method: weight_decay"):
        check_method(ModelSpec(name=name), Method.FIXNORM)


@pytest.mark.parametrize("name", ["squeezenet1_1", "swin_t", "resnet18"])
def test_the_marked_models_are_those_without_a_scale_invariant_weight(name: str) -> None:
    model = build_model(ModelSpec(name=name), classes=3, channels=3, image_size=32)
    roles = find_roles(model, torch.randn(2, 3, 32, 32), batches=1, must_hold=False)
    assert bool(roles.scale_invariant) == MODELS[name].scale_invariant


def test_checking_a_model_loads_no_torch() -> None:
    code = (
        "import sys; from fixnorm_core.models.catalog import check_model; from fixnorm_core.spec import ModelSpec; "
        "check_model(ModelSpec(name='resnet18')); "
        "assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
