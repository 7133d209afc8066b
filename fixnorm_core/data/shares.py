"""Which images of each batch one of several processes computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["WHOLE", "Share"]


@dataclass(frozen=True, slots=True)
class Share:
    """A contiguous part of every batch. Parts of one batch differ by one image at most, and no image is in two.

    Attributes:
        rank: Which part, from 0.
        count: How many parts there are.
        with_previous: Also the image before the part, first: mixing takes each image with the one before it, the first
            of a batch with its last.
    """

    rank: int = 0
    count: int = 1
    with_previous: bool = False

    def places(self, size: int) -> Tensor:
        """Where its images are in a batch of ``size``, int64."""
        own = torch.arange(size).tensor_split(self.count)[self.rank]
        if not self.with_previous:
            return own
        return torch.cat([(own[:1] - 1) % size, own])


WHOLE = Share()
"""All of it."""
