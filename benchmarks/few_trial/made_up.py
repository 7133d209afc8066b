"""Surfaces that are shaped on purpose unlike what a sampler for few trials expects. None is measured."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from few_trial.surfaces import Box, Point

__all__ = ["MADE_UP", "MadeUp"]

Array = npt.NDArray[np.float64]

_RANGES = {"lr": (-4.0, 0.0), "fc_norm": (math.log10(0.25), math.log10(25.0))}
_FINE = 161


class MadeUp:
    """One surface drawn by a seed; the attributes are those of a :class:`few_trial.surfaces.Landscape`."""

    knobs = ("lr", "fc_norm")
    noise = epsilon = 0.008

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        rng = np.random.default_rng((seed, 0))
        self._peak = np.array([rng.uniform(-3.6, -0.4), rng.uniform(-0.4, 1.0)])
        self._accuracy = _SHAPES[name](self._peak, rng)

    def truth(self, points: list[Point]) -> Array:
        """True accuracy at points."""
        return self._accuracy(np.log10(np.array([[point[knob] for knob in self.knobs] for point in points])))

    def best(self, box: Box) -> float:
        """The highest true accuracy inside a box."""
        axes = [np.linspace(math.log10(box.low[knob]), math.log10(box.high[knob]), _FINE) for knob in self.knobs]
        grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
        return float(self._accuracy(grid).max())

    def crop(self, rng: np.random.Generator) -> Box:
        """The box less a random part, up to two fifths, off one side of each knob's range; the peak stays inside."""
        low, high = {}, {}
        for knob, centre in zip(self.knobs, self._peak, strict=True):
            bottom, top = _RANGES[knob]
            cut = rng.uniform(0.0, 0.4) * (top - bottom)
            below = rng.random() < 0.5
            low[knob] = 10 ** (min(bottom + cut, centre) if below else bottom)
            high[knob] = 10 ** (top if below else max(top - cut, centre))
        return Box(low, high)


def _two_peaks(peak: Array, rng: np.random.Generator) -> Callable[[Array], Array]:
    """A narrow best peak, and a wide one that is three points lower."""
    other = np.array([rng.uniform(-3.6, -0.4), rng.uniform(-0.4, 1.0)])
    size = np.array([4.0, 2.0])

    def accuracy(logs: Array) -> Array:
        first, second = (np.sum(((logs - at) / size) ** 2, axis=1) for at in (peak, other))
        values: Array = 0.4 + 0.2 * np.exp(-first / 0.02) + 0.17 * np.exp(-second / 0.05)
        return values

    return accuracy


def _ridge(peak: Array, _rng: np.random.Generator) -> Callable[[Array], Array]:
    """What counts is the product of the knobs, as it is with weight decay."""

    def accuracy(logs: Array) -> Array:
        first, second = (logs - peak).T
        values: Array = 0.6 - 0.3 * np.minimum((first + second) ** 2, 1.0) - 0.01 * (first - second) ** 2
        return values

    return accuracy


def _needle(peak: Array, _rng: np.random.Generator) -> Callable[[Array], Array]:
    """A plain with one narrow peak: a tenth of each range, and nothing that leads there."""

    def accuracy(logs: Array) -> Array:
        away = np.sum(((logs - peak) / np.array([0.4, 0.2])) ** 2, axis=1)
        values: Array = 0.4 + 0.2 * np.exp(-away)
        return values

    return accuracy


def _flat(_peak: Array, _rng: np.random.Generator) -> Callable[[Array], Array]:
    """Nothing to find."""
    return lambda logs: np.full(len(logs), 0.6)


_SHAPES: dict[str, Callable[[Array, np.random.Generator], Callable[[Array], Array]]] = {
    "two peaks": _two_peaks,
    "ridge": _ridge,
    "needle": _needle,
    "flat": _flat,
}

MADE_UP = tuple(_SHAPES)
"""Their names."""
