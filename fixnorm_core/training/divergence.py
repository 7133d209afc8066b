"""Whether training has diverged, asked now and then without making the host wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["DivergenceCheck"]


class DivergenceCheck:
    """Watches a sum on a device that stays non-finite once it is.

    On a CPU an answer is about the present sum. On a GPU it is about the sum of the call before, whose answer has been
    copied meanwhile: looking at the present one would hold the host until the device has done all that is queued.
    Which call says so depends on the sums alone, never on how fast the device is.
    """

    def __init__(self, device: torch.device) -> None:
        """For sums on ``device``."""
        self._is_finite: Tensor | None = None
        if device.type == "cuda":
            self._is_finite = torch.ones((), dtype=torch.bool).pin_memory()
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._copied.record()

    def __call__(self, total: Tensor) -> bool:
        """Whether the sum, on a GPU that of the call before, is not finite.

        Args:
            total: A scalar on the device.
        """
        if self._is_finite is None:
            return not bool(torch.isfinite(total))
        self._copied.synchronize()  # long past, unless the host is a whole interval ahead
        if not bool(self._is_finite):
            return True
        self._is_finite.copy_(torch.isfinite(total), non_blocking=True)
        self._copied.record()
        return False
