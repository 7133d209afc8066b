"""Shifting and mirroring a batch of images, each its own way, without leaving their device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["shifted"]


def shifted(images: Tensor, *, shift: Tensor, flip: Tensor, at_most: int) -> Tensor:
    """Shifts each image, the border filled by reflection, then mirrors it where asked: one gather of pixels.

    Args:
        images: Shape (n, channels, side, side), of any dtype.
        shift: Rows and columns, int64 of shape (n, 2), in [-at_most, at_most].
        flip: 1 where to mirror and 0 elsewhere, int64 of shape (n,).
        at_most: The largest shift; below ``side``.
    """
    n, channels, side, _ = images.shape
    windows = _windows(side, at_most, images.device)
    place = shift + at_most
    rows, columns = windows[0].index_select(0, place[:, 0]), windows.flatten(0, 1)
    columns = columns.index_select(0, torch.add(place[:, 1], flip, alpha=2 * at_most + 1))
    source = torch.add(columns[:, None, :], rows[:, :, None], alpha=side).view(n, 1, side * side)
    pixels = images.reshape(n, channels, side * side).gather(2, source.expand(-1, channels, -1))
    return pixels.view_as(images)


@lru_cache(maxsize=8)
def _windows(side: int, at_most: int, device: torch.device) -> Tensor:
    """Which row or column comes to lie at each place, for every shift; shape (mirrored, 2 at_most + 1, side)."""
    # Worked out anew for each batch of 8x8 images this took as long as four gathers of their pixels
    reflected = torch.cat([torch.arange(at_most, 0, -1), torch.arange(side), side - 2 - torch.arange(at_most)])
    windows = reflected.unfold(0, side, 1)
    return torch.stack([windows, windows.flip(1)]).to(device)
