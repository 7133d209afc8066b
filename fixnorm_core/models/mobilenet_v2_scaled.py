"""MobileNetV2 scaled to the FLOPs of EfficientNet-B0 and given its tricks, of torchvision's blocks.

The FixNorm paper (arXiv 2103.15345) trains "MobileNetV2 scaled to the same FLOPs with the same tricks" beside
EfficientNet-B0, and says no more about it in any copy that could be read. This is our reading:

- stages, strides, repeats and expansions are those of MobileNetV2 (arXiv 1801.04381, Table 2), its kernels all 3 x 3;
- it is scaled as that paper scales it, by one factor on the channels of every layer. Channels are rounded to multiples
  of 4: with the usual 8 no factor comes within ten percent of EfficientNet-B0, since the three first stages, which cost
  the most, grow in one jump;
- the tricks inside the network are EfficientNet's (arXiv 1905.11946): squeeze-and-excitation with a quarter of the
  block's input channels, SiLU in place of ReLU6, stochastic depth that rises with the block, dropout before the head.
  So what is left between the two is what the architecture search found: kernels, repeats and widths.

Who reads "tricks" as those of the training alone takes torchvision's ``mobilenet_v2`` with ``width_mult``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from torch import nn

from fixnorm_core.vision import torchvision

__all__ = ["WIDTH_MULT", "mobilenet_v2_scaled"]

WIDTH_MULT = 1.12
"""1.006 times the FLOPs of EfficientNet-B0 at 224 x 224 (776 against 772 million, ``torch.utils.flop_counter``)."""

_CHANNEL_STEP = 4
_STEM_CHANNELS, _LAST_CHANNELS = 32, 1280
# arXiv 1801.04381, Table 2: expansion, output channels, repeats, stride of the first
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

_efficientnet: Any = import_module(f"{torchvision.__name__}.models.efficientnet")
_make_divisible: Any = import_module(f"{torchvision.__name__}.models._utils")._make_divisible


class _Stage(_efficientnet.MBConvConfig):  # type: ignore[misc]
    """One row of the table; the class decides how channels are rounded."""

    @staticmethod
    def adjust_channels(channels: int, width_mult: float, min_value: int | None = None) -> int:
        return cast("int", _make_divisible(channels * width_mult, _CHANNEL_STEP, min_value))


def mobilenet_v2_scaled(
    *, classes: int, width_mult: float = WIDTH_MULT, dropout: float = 0.2, stochastic_depth_prob: float = 0.2
) -> nn.Module:
    """A freshly initialised network, initialised as torchvision initialises EfficientNets.

    Args:
        classes: Number of logits.
        width_mult: Factor on the channels of every layer; the last 1,280 are never fewer (as in MobileNetV2).
        dropout: Share of the features dropped before the head.
        stochastic_depth_prob: Probability with which the last block is skipped; the others' rises to it linearly.

    Returns:
        A module from images (N, 3, side, side) to logits (N, classes).
    """
    stages = []
    channels = _STEM_CHANNELS
    for expansion, outputs, repeats, stride in _STAGES:
        stages.append(_Stage(expansion, 3, stride, channels, outputs, repeats, width_mult=width_mult))
        channels = outputs
    last = _Stage.adjust_channels(_LAST_CHANNELS, max(1.0, width_mult))
    network = _efficientnet.EfficientNet(
        stages,
        dropout=dropout,
        stochastic_depth_prob=stochastic_depth_prob,
        num_classes=classes,
        last_channel=last,
    )
    return cast("nn.Module", network)
