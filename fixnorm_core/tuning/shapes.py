"""Random accuracy surfaces: one peak, nearly separable, flat on top, steep where the learning rate is too high.

Notation, with shapes. ``P`` surfaces over ``d`` axes of :mod:`fixnorm_core.tuning.axes`; ``n`` points.

    q   (P, n)  sum over axes of (|x - peak| / width)^power, with a width of its own on either side of the peak
    s   (P, n)  drop below the surface's own top as a share of its depth, 1 - exp(-q)

A drop of this form is separable: the share of the depth that is left, exp(-q), is a product over axes. A tilt moves
the peak of an axis with the learning rate, as it does where what counts is a product, such as lr times weight decay.
A category adds a ``q`` of its own; the best one adds none.

Source: this project's own measurements. What it takes to lose most of the accuracy is nearly the same everywhere when
counted in factors of the learning rate: e^4.6 and more below the best one, e^2.3 to e^3.2 above it
(benchmarks/few_trial.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.hints import Hints

__all__ = ["Shapes"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# Median and standard deviation of the logarithm.
_RATE_BELOW, _RATE_ABOVE = (4.5, 0.4), (3.0, 0.4)
_OTHER_SIDE = (4.0, 0.5)
_POWER = (2.8, 0.35)
# Of knobs other than a rate: how often the upper side loses nothing (a bound that never binds), and the lower one.
_FLAT_ABOVE, _FLAT_BELOW = 0.35, 0.12
_FLAT = 30.0
# How many shapes know nothing of the above: widths from a twelfth of the range to three times it, powers from a tent.
_IGNORANT = 0.15
_WIDTHS, _POWERS = (0.08, 3.0), (1.0, 3.0)
_TILTED, _TILT_SD = 0.2, 0.7
# A wrong category costs a twentieth of the depth, within a factor of three or so.
_PENALTY = (0.05, 1.2)
# A hint is right in three cases of five, whatever the others are; but all of them can be wrong together.
_RIGHT, _MOST_HINTED = 0.6, 0.85


@dataclass(frozen=True, slots=True)
class Shapes:
    """``P`` surfaces over ``d`` axes.

    Attributes:
        peak: (P, d), where the top is.
        below: (P, d), distance below the peak at which ``q`` reaches one.
        above: (P, d), likewise above the peak.
        power: (P, d), how fast the sides fall.
        tilt: (P, d), how far the peak moves along an axis per unit of the pivot's distance from its own peak.
        penalty: (P, d, k), what each of at most ``k`` categories adds to ``q``; zero for numbers.
        choices: (d,), the number of categories of each axis; 0 for numbers.
        pivot: The axis that peaks are tilted by.
    """

    peak: Array
    below: Array
    above: Array
    power: Array
    tilt: Array
    penalty: Array
    choices: npt.NDArray[np.intp]
    pivot: int

    @classmethod
    def draw(cls, count: int, axes: Axes, *, rng: np.random.Generator, hints: Hints | None = None) -> Self:
        """Draws ``count`` surfaces from the prior.

        Args:
            count: ``P``.
            axes: The ``d`` axes.
            rng: Draws.
            hints: Points that are probably near the peak, one as likely as the other; None makes every place as likely.
        """
        rates, spans, size = axes.rates, axes.spans, (count, len(axes.axes))
        peak = spans * rng.random(size)
        if hints is not None:
            away, chance = rng.standard_normal(size), rng.random(count)
            hinted = min(1.0 - (1.0 - _RIGHT) ** len(hints.points), _MOST_HINTED)
            which = np.minimum((chance / hinted * len(hints.points)).astype(np.intp), len(hints.points) - 1)
            near = np.clip(hints.points[which] + hints.spreads[which] * away, 0.0, spans)
            peak = np.where(chance[:, None] < hinted, near, peak)
        side = rng.random(size)
        flat_above = ~rates & (side < _FLAT_ABOVE)
        flat_below = ~rates & (side > 1.0 - _FLAT_BELOW)
        below = np.where(rates, _log_normal(_RATE_BELOW, size, rng), _log_normal(_OTHER_SIDE, size, rng))
        above = np.where(rates, _log_normal(_RATE_ABOVE, size, rng), _log_normal(_OTHER_SIDE, size, rng))
        below, above = np.where(flat_below, _FLAT, below), np.where(flat_above, _FLAT, above)
        power = _log_normal(_POWER, size, rng)
        ignorant = rng.random((count, 1)) < _IGNORANT
        pivot = int(np.argmax(rates)) if rates.any() else int(np.argmax(axes.choices == 0))
        tilt = np.where(rng.random((count, 1)) < _TILTED, _TILT_SD * rng.standard_normal(size), 0.0)
        tilt[:, pivot] = 0.0
        return cls(
            peak=peak,
            below=np.where(ignorant, spans * _log_uniform(_WIDTHS, size, rng), below),
            above=np.where(ignorant, spans * _log_uniform(_WIDTHS, size, rng), above),
            power=np.where(ignorant, rng.uniform(*_POWERS, size), power),
            tilt=tilt,
            penalty=_penalties(count, axes, rng),
            choices=axes.choices,
            pivot=pivot,
        )

    def take(self, indices: npt.NDArray[np.intp]) -> Shapes:
        """The surfaces with these indices, in this order."""
        return Shapes(
            peak=self.peak[indices],
            below=self.below[indices],
            above=self.above[indices],
            power=self.power[indices],
            tilt=self.tilt[indices],
            penalty=self.penalty[indices],
            choices=self.choices,
            pivot=self.pivot,
        )

    def drop(self, points: Array) -> Array:
        """The drop ``s`` (P, n) at ``points`` (n, d), in [0, 1]."""
        q = np.zeros((len(self.peak), len(points)))
        for axis, choices in enumerate(self.choices):
            q += self._category(points, axis) if choices else self._side(points, axis)
        return -np.expm1(-q)

    def drop_above(self, points: Array, *, cliffs: Flags) -> Array:
        """The part of the drop (P, n) that comes from being above the peak in any of the axes ``cliffs`` (d,)."""
        q = np.zeros((len(self.peak), len(points)))
        for axis in np.flatnonzero(cliffs):
            q += self._side(points, int(axis), above_only=True)
        return -np.expm1(-q)

    def _side(self, points: Array, axis: int, *, above_only: bool = False) -> Array:
        away = points[:, axis] - self.peak[:, [axis]]
        if axis != self.pivot and not self.choices[self.pivot]:
            away = away - self.tilt[:, [axis]] * (points[:, self.pivot] - self.peak[:, [self.pivot]])
        width = np.where(away < 0, self.below[:, [axis]], self.above[:, [axis]])
        distance = np.maximum(away, 0.0) if above_only else np.abs(away)
        q: Array = (distance / width) ** self.power[:, [axis]]
        return q

    def _category(self, points: Array, axis: int) -> Array:
        q: Array = self.penalty[:, axis, points[:, axis].astype(np.intp)]
        return q


def _penalties(count: int, axes: Axes, rng: np.random.Generator) -> Array:
    most = max(1, int(axes.choices.max(initial=0)))
    penalty = np.zeros((count, len(axes.axes), most))
    for axis, choices in enumerate(axes.choices):
        if choices:
            drawn = _log_normal(_PENALTY, (count, int(choices)), rng)
            drawn[np.arange(count), rng.integers(choices, size=count)] = 0.0
            penalty[:, axis, :choices] = drawn
    return penalty


def _log_normal(median_sd: tuple[float, float], size: tuple[int, ...], rng: np.random.Generator) -> Array:
    median, sd = median_sd
    drawn: Array = median * np.exp(sd * rng.standard_normal(size))
    return drawn


def _log_uniform(limits: tuple[float, float], size: tuple[int, ...], rng: np.random.Generator) -> Array:
    low, high = np.log(limits)
    drawn: Array = np.exp(rng.uniform(low, high, size))
    return drawn
