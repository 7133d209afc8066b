"""Fixing norms keeps the function of networks that come with a large eps."""

from __future__ import annotations

import copy

import pytest
import torch

from fixnorm_core.method.step import FixNorm
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import ModelSpec


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_v2_s", "resnet18"])
def test_weights_of_norm_one_keep_the_training_function(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec(name=name, options={}), classes=10, channels=3, image_size=32)
    for module in model.modules():  # dropout and stochastic depth would hide what is compared
        if "Dropout" in type(module).__name__ or "StochasticDepth" in type(module).__name__:
            module.p = 0.0
    held = copy.deepcopy(model)
    images = torch.randn(16, 3, 32, 32)
    FixNorm(torch.optim.SGD(held.parameters(), lr=0.1), held, example_input=images)
    with torch.no_grad():
        before, after = model(images).flatten(), held(images).flatten()
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.99
