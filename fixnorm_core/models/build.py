"""Networks from their names, fitted to the data: classes, colour channels, image size."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fixnorm_core.errors import ModelError
from fixnorm_core.models.catalog import MODELS, check_model
from fixnorm_core.models.small_resnet import SmallResNet
from fixnorm_core.own import call_factory, is_own
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.spec import ModelSpec

__all__ = ["SMALL_IMAGE", "build_model"]

SMALL_IMAGE = 96
"""Below this many pixels a side, ``stem: auto`` takes the early down-sampling out where it can."""


_LARGEST_EPS = 1e-5


def build_model(spec: ModelSpec, *, classes: int, channels: int, image_size: int, reach: Reach = LOCAL) -> nn.Module:
    """A freshly initialised network; its weights depend on torch's global random state alone.

    A torchvision model keeps its architecture but for three things: the head has ``classes`` outputs; the first
    convolution takes ``channels`` colours; and with the small stem the first convolution does not stride (its kernel
    is cut to 3 x 3 where it is larger) and a pooling right behind it is left out. GoogLeNet and Inception come without
    their auxiliary heads; transformers are told the image size. Also, no BatchNorm has an eps above 1e-5
    (EfficientNetV2 and MobileNetV3 come with 1e-3): behind weights of norm 1 the variance is itself around 1e-3, so
    that a larger eps would be most of what is divided by, and the function would not be kept.

    A model of one's own is what its factory returns: ``factory(num_classes, **spec.options) -> nn.Module``, which takes
    images (n, channels, image_size, image_size) and answers logits (n, num_classes). It draws from torch's generator,
    which is seeded; it has to answer on the meta device too, where it is tried out; its BatchNorms' eps are bounded.

    Args:
        spec: Name, options and stem.
        classes: Number of logits.
        channels: Colour channels of an image.
        image_size: Pixels a side.
        reach: Which modules may be imported.

    Returns:
        A module from images (N, channels, image_size, image_size) to logits (N, classes), in training mode.

    Raises:
        ModelError: for what :func:`fixnorm_core.models.catalog.check_model` refuses, and for images that the network
            cannot take.
    """
    check_model(spec, reach=reach)
    own = _own(spec, classes, reach) if is_own(spec.name) else None  # outside: its errors have words of their own
    try:
        model = own
        if model is None:
            model = _construct(spec, classes=classes, channels=channels, image_size=image_size)
        _cap_eps(model)
        logits = _rehearse(model, torch.empty(2, channels, image_size, image_size, device="meta"))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ModelError(
            f"model {spec.name} with options {spec.options} cannot take {channels}-channel images of {image_size} x "
            f"{image_size} pixels ({_first_line(error)})",
            "Change the options, set data.image_size to what the model expects (224 suits all), or take another model",
        ) from error
    if logits.shape != (2, classes):
        raise ModelError(f"model {spec.name} answers {tuple(logits.shape)} where (2, {classes}) is needed")
    return model


def _own(spec: ModelSpec, classes: int, reach: Reach) -> nn.Module:
    model = call_factory(spec.name, classes, reach=reach, refusal=ModelError, options=dict(spec.options))
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"factory {spec.name!r} returned {type(model).__name__}",
            "Return a torch.nn.Module: factory(num_classes, ...)",
        )
    return model.train()


def _cap_eps(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eps = min(module.eps, _LARGEST_EPS)


def _construct(spec: ModelSpec, *, classes: int, channels: int, image_size: int) -> nn.Module:
    entry = MODELS[spec.name]
    options: dict[str, Any] = dict(spec.options)
    if entry.family == "small_resnet":
        return SmallResNet(classes=classes, channels=channels, **options)
    # Only now: with it comes torch's compiler, and a process that has just begun would wait for both
    from fixnorm_core.vision import torchvision

    if entry.family == "mobilenet_v2_scaled":
        from fixnorm_core.models.mobilenet_v2_scaled import mobilenet_v2_scaled

        model = mobilenet_v2_scaled(classes=classes, **options)
    else:
        options |= _FIXED_OPTIONS.get(entry.family, {})
        if entry.family == "vit":
            options["image_size"] = image_size
        if entry.family == "maxvit":
            options["input_size"] = (image_size, image_size)
        model = cast("nn.Module", torchvision.models.get_model(spec.name, weights=None, num_classes=classes, **options))
    if entry.small_stem and (spec.stem == "small" or (spec.stem == "auto" and image_size < SMALL_IMAGE)):
        _take_out_down_sampling(model, family=entry.family)
    if channels != 3:
        name = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
        _replace_conv(model, name, in_channels=channels)
    return model


_FIXED_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception": {"aux_logits": False, "init_weights": True},
}
# family: (first convolution, the pooling right behind it)
_STEMS: dict[str, tuple[str, str | None]] = {
    "densenet": ("features.conv0", "features.pool0"),
    "efficientnet": ("features.0.0", None),
    "googlenet": ("conv1.conv", "maxpool1"),
    "mnasnet": ("layers.0", None),
    "mobilenet_v2": ("features.0.0", None),
    "mobilenet_v2_scaled": ("features.0.0", None),
    "mobilenet_v3": ("features.0.0", None),
    "regnet": ("stem.0", None),
    "resnet": ("conv1", "maxpool"),
    "shufflenet": ("conv1.0", "maxpool"),
    "squeezenet": ("features.0", "features.2"),
}


def _take_out_down_sampling(model: nn.Module, *, family: str) -> None:
    conv, pool = _STEMS[family]
    _replace_conv(model, conv, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    if pool is not None:
        model.set_submodule(pool, nn.Identity())


def _replace_conv(model: nn.Module, name: str, **changes: Any) -> None:
    """Puts a changed convolution in the place of ``name``, initialised to the same output variance per input."""
    old = model.get_submodule(name)
    if not isinstance(old, nn.Conv2d):
        raise TypeError(f"{name} is {type(old).__name__}, not a convolution")
    arguments: dict[str, Any] = {
        key: getattr(old, key) for key in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups")
    }
    new = nn.Conv2d(**(arguments | changes), bias=old.bias is not None)
    with torch.no_grad():
        fan_in_ratio = old.weight[0].numel() / new.weight[0].numel()
        new.weight.copy_(torch.randn_like(new.weight) * old.weight.std() * fan_in_ratio**0.5)
        if old.bias is not None:
            new.bias = copy.deepcopy(old.bias)
    model.set_submodule(name, new)


def _rehearse(model: nn.Module, images: Tensor) -> Tensor:
    """Runs the network on the meta device, where shapes are checked without memory or arithmetic."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    # In evaluation mode: BatchNorm refuses to train on one value per channel, which a larger batch may have more of.
    logits: Tensor = torch.func.functional_call(model.eval(), on_meta, (images,))
    model.train()
    return logits


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
