"""Made-up surfaces of (lr, fc_norm) for benchmarks that need a truth without noise of its own.

Every surface has its optimum at a random place, a random part of the box is cut off one side of each knob so that the
centre says nothing, and a run has Gaussian noise of 0.8 points. The surfaces are ours and not measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

# One thread per process, before numpy and torch read them: the processes share the cores already.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, FloatDistribution

Array = npt.NDArray[np.float64]
Accuracy = Callable[[Array], Array]

NOISE = 0.8
CHANCE = 10.0
LR_DECADES, FC_DECADES = 4.0, 2.0
Space = dict[str, BaseDistribution]


@dataclass(frozen=True, slots=True)
class Surface:
    """True accuracy in points over the ``ranges`` of (lr, fc_norm), as a function of (n, 2) decimal logarithms."""

    ranges: tuple[tuple[float, float], tuple[float, float]]
    accuracy: Accuracy
    diverges_above: float

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """The search space, log-scaled."""
        names = ("lr", "fc_norm")
        return {name: FloatDistribution(*limits, log=True) for name, limits in zip(names, self.ranges, strict=True)}

    def best(self) -> float:
        """The highest accuracy on a fine grid."""
        axes = [np.linspace(math.log10(low), math.log10(high), 121) for low, high in self.ranges]
        grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
        return float(self.accuracy(grid).max())


def separable(rng: np.random.Generator, *, indifferent: bool) -> Surface:
    """Unimodal and separable, flat on top, a cliff above; ``indifferent``: a loose bound on the head costs nothing."""
    peak = np.array([rng.uniform(-3.2, -0.8), rng.uniform(-0.3, 0.9)])
    flat = rng.uniform(0.05, 0.2)
    slow, fast, cliff = rng.uniform(5, 15), rng.uniform(6, 20), rng.uniform(0.5, 1.2)
    tight, loose = rng.uniform(6, 20), 0.0 if indifferent else rng.uniform(2, 8)
    top = rng.uniform(40, 95)

    def accuracy(logs: Array) -> Array:
        lr, fc = (logs - peak).T
        loss = np.where(lr < 0, slow, fast) * np.maximum(np.abs(lr) - flat, 0) ** 1.5
        loss += np.where(fc < 0, tight, loose) * np.maximum(np.abs(fc) - flat / 2, 0) ** 1.5
        kept = np.exp(-((np.maximum(lr - cliff, 0) / 0.15) ** 2))
        points: Array = CHANCE + kept * np.maximum(top - loss - CHANCE, 0)
        return points

    return Surface(_cropped(rng, peak), accuracy, diverges_above=float(peak[0] + cliff + 0.4))


def two_peaks(rng: np.random.Generator) -> Surface:
    """A wrong shape: a narrow best peak and a wide second one."""
    peaks = np.stack([rng.uniform(-3.6, -0.4, 2), rng.uniform(-0.4, 1.0, 2)], axis=1)
    size = np.array([LR_DECADES, FC_DECADES])

    def accuracy(logs: Array) -> Array:
        first, second = (np.sum(((logs - peak) / size) ** 2, axis=1) for peak in peaks)
        points: Array = 40.0 + 20.0 * np.exp(-first / 0.02) + 17.0 * np.exp(-second / 0.05)
        return points

    return Surface(_cropped(rng, peaks[0]), accuracy, math.inf)


SURFACES: dict[str, Callable[[np.random.Generator], Surface]] = {
    "separable": partial(separable, indifferent=False),
    "indifferent": partial(separable, indifferent=True),
    "two peaks": two_peaks,
}


def _cropped(rng: np.random.Generator, peak: Array) -> tuple[tuple[float, float], tuple[float, float]]:
    """The box [1e-4, 1] x [0.25, 25] with up to 40 % cut off one side of each knob, ``peak`` still inside."""
    ends = []
    for low, decades, centre in ((-4.0, LR_DECADES, peak[0]), (math.log10(0.25), FC_DECADES, peak[1])):
        high, cut = low + decades, rng.uniform(0, 0.4) * decades
        if rng.random() < 0.5:
            ends.append((float(10 ** min(low + cut, centre)), float(10**high)))
        else:
            ends.append((float(10**low), float(10 ** max(high - cut, centre))))
    return ends[0], ends[1]
