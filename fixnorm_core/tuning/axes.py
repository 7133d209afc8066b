"""The searched parameters as axes of a space in which a distance means the same for every user.

On a log scale the natural length is the natural logarithm: a factor of e is 1, whatever the unit of the value and
whatever the range. A linear range has no such length and counts as ``4``, about that of a range of two decades. A
category is its index; categories have no distance but "the same" and "another".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

__all__ = ["Axes", "Axis"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_LINEAR_SPAN = 4.0
# Knobs whose upper side is a cliff. Without one of these names any knob may have been the one that was too high.
_RATE_NAMES = frozenset({"lr", "learning_rate"})
# More digits would only look exact.
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Axis:
    """One searched parameter.

    Attributes:
        name: The parameter's name.
        distribution: Its range or its choices; never a single value.
    """

    name: str
    distribution: FloatDistribution | IntDistribution | CategoricalDistribution

    @property
    def choices(self) -> int:
        """The number of categories; 0 for a number."""
        return len(self.distribution.choices) if isinstance(self.distribution, CategoricalDistribution) else 0

    @property
    def is_rate(self) -> bool:
        """Whether it is a learning rate on a log scale."""
        return self.name in _RATE_NAMES and self._is_log

    @property
    def span(self) -> float:
        """The coordinate of the range's upper end; the lower end is 0."""
        if isinstance(self.distribution, CategoricalDistribution):
            return float(len(self.distribution.choices) - 1)
        return math.log(self.distribution.high / self.distribution.low) if self._is_log else _LINEAR_SPAN

    def holds(self, value: Any) -> bool:
        """Whether the value has a coordinate: a choice, or a number (above zero on a log scale)."""
        if isinstance(self.distribution, CategoricalDistribution):
            return value in self.distribution.choices
        return isinstance(value, (int, float)) and math.isfinite(value) and (value > 0 or not self._is_log)

    def coordinate(self, value: Any) -> float:
        """Where a value that :meth:`holds` lies; outside ``[0, span]`` if it is outside the range."""
        if isinstance(self.distribution, CategoricalDistribution):
            return float(self.distribution.to_internal_repr(value))
        low, high = self.distribution.low, self.distribution.high
        return math.log(value / low) if self._is_log else _LINEAR_SPAN * (value - low) / (high - low)

    def value(self, coordinate: float) -> Any:
        """The nearest value inside the range that the distribution allows."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices[round(min(max(coordinate, 0.0), self.span))]
        low, high, step = self.distribution.low, self.distribution.high, self.distribution.step
        exact = low * math.exp(coordinate) if self._is_log else low + (high - low) * coordinate / _LINEAR_SPAN
        if step is not None:
            exact = low + step * round((exact - low) / step)
        if isinstance(self.distribution, IntDistribution):
            return int(min(max(exact, low), high))
        return min(max(float(f"{exact:.{_DIGITS}g}"), low), high)

    @property
    def _is_log(self) -> bool:
        return not isinstance(self.distribution, CategoricalDistribution) and self.distribution.log


@dataclass(frozen=True, slots=True)
class Axes:
    """All searched parameters, ``d`` of them, in order."""

    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, space: Mapping[str, BaseDistribution]) -> Axes:
        """The axes of a search space; parameters with a single value are left out."""
        return cls(
            tuple(
                Axis(name, distribution)
                for name, distribution in space.items()
                if isinstance(distribution, FloatDistribution | IntDistribution | CategoricalDistribution)
                and not distribution.single()
            )
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names."""
        return tuple(axis.name for axis in self.axes)

    @property
    def spans(self) -> Array:
        """(d,), the upper end of each axis."""
        return np.array([axis.span for axis in self.axes])

    @property
    def choices(self) -> npt.NDArray[np.intp]:
        """(d,), the number of categories of each axis; 0 for numbers."""
        return np.array([axis.choices for axis in self.axes], dtype=np.intp)

    @property
    def rates(self) -> Flags:
        """(d,), which are learning rates."""
        return np.array([axis.is_rate for axis in self.axes], dtype=bool)

    @property
    def cliffs(self) -> Flags:
        """(d,), those that can have been too high where training diverged: the learning rates, else any number."""
        rates = self.rates
        return rates if rates.any() else self.choices == 0

    def hold(self, params: Mapping[str, Any]) -> bool:
        """Whether these parameters have a place."""
        return all(axis.name in params and axis.holds(params[axis.name]) for axis in self.axes)

    def point(self, params: Mapping[str, Any]) -> Array:
        """(d,), where parameters lie."""
        return np.array([axis.coordinate(params[axis.name]) for axis in self.axes])

    def points(self, several: Sequence[Mapping[str, Any]]) -> Array:
        """(n, d), where each of several sets of parameters lies."""
        return np.array([self.point(params) for params in several], dtype=float).reshape(-1, len(self.axes))

    def params(self, point: Array) -> dict[str, Any]:
        """The nearest allowed parameters to a point (d,)."""
        return {axis.name: axis.value(float(x)) for axis, x in zip(self.axes, point, strict=True)}

    def spread(self, unit: Array) -> Array:
        """Points (n, d) of the unit cube as allowed points of this space: categories of equal size, whole steps."""
        sizes = np.where(self.choices > 0, self.choices, 1)
        scaled = np.where(self.choices > 0, np.minimum(np.floor(unit * sizes), sizes - 1), unit * self.spans)
        return self.snap(scaled)

    def snap(self, points: Array) -> Array:
        """The nearest allowed point to each of ``points`` (n, d)."""
        snapped = np.clip(points, 0.0, self.spans)
        for column, axis in enumerate(self.axes):
            distribution = axis.distribution
            if isinstance(distribution, FloatDistribution) and distribution.step is None:
                continue
            snapped[:, column] = [axis.coordinate(axis.value(float(x))) for x in snapped[:, column]]
        return snapped
