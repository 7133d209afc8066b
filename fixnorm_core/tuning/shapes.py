"""Random accuracy surfaces: one peak, separable, flat on top, with sides that are steep, gentle or indifferent.

Notation, with shapes. ``P`` surfaces over ``d`` knobs, each knob mapped to [0, 1] on its log scale; ``n`` points.

    q   (P, n)  sum over knobs of (|x - peak| / width)^power, with a width of its own on either side of the peak
    s   (P, n)  drop below the surface's own top as a share of its depth, 1 - exp(-q)

A drop of this form is separable: the share of the depth that is left, exp(-q), is a product over knobs.
Source: this project's own measurements of (lr, fc_norm) surfaces, which show these features; the form is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

__all__ = ["Shapes"]

Array = npt.NDArray[np.float64]

# A peak just outside the box makes the border the best place inside it.
_PEAK_MARGIN = 0.05
# From a cliff (a twentieth of the box) to a side that loses next to nothing across the whole box.
_WIDTHS = (0.05, 3.0)
# From a tent to a flat top.
_POWERS = (1.0, 3.0)


@dataclass(frozen=True, slots=True)
class Shapes:
    """``P`` surfaces over ``d`` knobs.

    Attributes:
        peak: (P, d), where the top is, in units of the box.
        width_below: (P, d), distance below the peak at which ``q`` reaches one, in units of the box.
        width_above: (P, d), likewise above the peak.
        power: (P, d), how fast the sides fall.
    """

    peak: Array
    width_below: Array
    width_above: Array
    power: Array

    @classmethod
    def draw(cls, count: int, *, knobs: int, rng: np.random.Generator) -> Self:
        """Draws from the prior: peaks uniform over the box, widths log-uniform, every knob and side independent."""
        size = (count, knobs)
        narrow, wide = np.log(_WIDTHS)
        return cls(
            peak=rng.uniform(-_PEAK_MARGIN, 1.0 + _PEAK_MARGIN, size),
            width_below=np.exp(rng.uniform(narrow, wide, size)),
            width_above=np.exp(rng.uniform(narrow, wide, size)),
            power=rng.uniform(_POWERS[0], _POWERS[1], size),
        )

    def take(self, indices: npt.NDArray[np.intp]) -> Shapes:
        """The surfaces with these indices, in this order."""
        return Shapes(self.peak[indices], self.width_below[indices], self.width_above[indices], self.power[indices])

    def drop(self, points: Array) -> Array:
        """The drop ``s`` (P, n) at ``points`` (n, d), in [0, 1]."""
        q = np.zeros((len(self.peak), len(points)))
        for knob in range(points.shape[1]):
            away = points[:, knob] - self.peak[:, [knob]]
            width = np.where(away < 0, self.width_below[:, [knob]], self.width_above[:, [knob]])
            q += (np.abs(away) / width) ** self.power[:, [knob]]
        return -np.expm1(-q)

    def drop_above(self, points: Array, *, knobs: npt.NDArray[np.bool_]) -> Array:
        """The part of the drop (P, n) that comes from being above the peak in any of ``knobs`` (d,)."""
        q = np.zeros((len(self.peak), len(points)))
        for knob in np.flatnonzero(knobs):
            above = np.maximum(points[:, knob] - self.peak[:, [knob]], 0.0)
            q += (above / self.width_above[:, [knob]]) ** self.power[:, [knob]]
        return -np.expm1(-q)
