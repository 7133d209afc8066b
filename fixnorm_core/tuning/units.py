"""What the objective's values are: an accuracy, whose size means something, or a number of an unknown unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

__all__ = ["Unit"]

Array = npt.NDArray[np.float64]

# Of an unknown unit, the depth of a surface is taken to be about what the trials have spanned, and the best near here.
_DEPTH, _TOP = 0.5, 0.6
# Values nearer to zero than chance among 50,000 classes, but not all zero, are something else, in small units.
_LEAST = 2e-5


@dataclass(frozen=True, slots=True)
class Unit:
    """A linear map from the objective's values (larger is better) to shares of one.

    Attributes:
        scale: The value that one share is.
        offset: The value that zero shares are.
        known: Whether shares are accuracies. Otherwise the map was made from the values themselves.
    """

    scale: float
    offset: float
    known: bool

    @classmethod
    def of(cls, values: Array) -> Self:
        """The unit of finite ``values`` (n,): fractions or percents, of right or (negative) of wrong answers, or none.

        Values of a small loss look like an error rate. That does no harm: the belief holds shallow surfaces possible.
        """
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        is_small = 0.0 < max(-low, high) < _LEAST
        for scale in () if is_small else (1.0, 100.0):
            if low >= 0.0 and high <= scale:
                return cls(scale=scale, offset=0.0, known=True)
            if -scale <= low and high <= 0.0:
                return cls(scale=scale, offset=-scale, known=True)
        scale = (high - low) / _DEPTH or max(abs(high), 1.0)
        return cls(scale=scale, offset=high - _TOP * scale, known=False)

    def shares(self, values: Array) -> Array:
        """Values as shares."""
        shares: Array = (values - self.offset) / self.scale
        return shares

    def values(self, shares: Array) -> Array:
        """Shares as values."""
        values: Array = self.offset + self.scale * shares
        return values
