from __future__ import annotations

import subprocess
import sys

import pytest

from fixnorm_core.errors import ModelError
from fixnorm_core.models.catalog import MODELS, check_model
from fixnorm_core.spec import ModelSpec
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


def test_checking_a_model_loads_no_torch() -> None:
    code = (
        "import sys; from fixnorm_core.models.catalog import check_model; from fixnorm_core.spec import ModelSpec; "
        "check_model(ModelSpec(name='resnet18')); "
        "assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
