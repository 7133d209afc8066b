"""Where the peak probably is, from someone who has been there: a default, or what an earlier study found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fixnorm_core.errors import SpecError
from fixnorm_core.tuning.axes import Axes

__all__ = ["HINT_SPREAD", "TASKS_DIFFER", "Hint", "Hints"]

Array = npt.NDArray[np.float64]

HINT_SPREAD = 1.0
"""What a hint is off by unless it says otherwise, a factor of e: its standard deviation."""

TASKS_DIFFER = 0.7
"""How far apart the peaks of two tasks are in a knob, in natural logarithms: the standard deviation."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A point that is probably near the peak.

    Attributes:
        params: A value for each searched parameter that has more than one. It may lie outside its range: the peak is
            then expected at that end.
        spread: The standard deviation of the peak around it, by parameter, where that is not :data:`HINT_SPREAD`: in
            natural logarithms on a log scale (1 is a factor of e), in quarters of the range on a linear one.
    """

    params: Mapping[str, Any]
    spread: Mapping[str, float] | None = None

    @classmethod
    def elsewhere(cls, params: Mapping[str, Any], spread: Mapping[str, float]) -> Self:
        """What a study found, as a hint for another task: :data:`TASKS_DIFFER` is added to its own spread."""
        return cls(dict(params), {name: math.hypot(own, TASKS_DIFFER) for name, own in spread.items()})

    def check(self, axes: Axes) -> None:
        """Raises a SpecError if it lacks a parameter, names another one, or gives a value that has no place."""
        if self.params.keys() != set(axes.names):
            raise SpecError(
                f"a hint has {sorted(self.params)}, the searched parameters are {sorted(axes.names)}",
                "Give one value for each",
            )
        for axis in axes.axes:
            if not axis.holds(self.params[axis.name]):
                raise SpecError(
                    f"a hint gives {axis.name!r} as {self.params[axis.name]!r}, which has no place on "
                    f"{axis.distribution}",
                    "Give a number (above zero on a log scale), or one of the choices",
                )
        for name, spread in (self.spread or {}).items():
            if name not in axes.names or not 0.0 < spread < np.inf:
                raise SpecError(
                    f"a hint gives the spread of {name!r} as {spread!r}; it is a number above zero, of one of "
                    f"{sorted(axes.names)}",
                    "Correct it or leave it out",
                )


@dataclass(frozen=True, slots=True)
class Hints:
    """``h`` hints on ``d`` axes.

    Attributes:
        points: (h, d), where they are; outside the axes where a hint is.
        spreads: (h, d), their standard deviations.
    """

    points: Array
    spreads: Array

    @classmethod
    def on(cls, axes: Axes, hints: Sequence[Hint]) -> Self | None:
        """Those of ``hints`` that have a place on the axes; None if none has."""
        placed = [hint for hint in hints if axes.hold(hint.params)]
        if not placed:
            return None
        spreads = [[(hint.spread or {}).get(name, HINT_SPREAD) for name in axes.names] for hint in placed]
        return cls(axes.points([hint.params for hint in placed]), np.array(spreads))
