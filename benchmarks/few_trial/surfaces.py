"""A recording as a landscape that can be asked anywhere: its true accuracy, and the noise of a run.

What one grid point recorded is the mean over seeds of validation and test accuracy. Single means still carry noise of
half a point, so the highest of them is a lucky one; a Gaussian process with that noise takes it out. Between grid
points, monotone cubics of the logarithms of the knobs add no maxima of their own.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
from accuracy.runs import read_outcomes
from scipy.interpolate import PchipInterpolator, RegularGridInterpolator
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

from fixnorm_core.tuning.kernels import matern52
from worker.recording import Recording, Run

__all__ = ["Box", "Landscape", "load", "load_decay", "smoothed"]

Array = npt.NDArray[np.float64]
Point = dict[str, float]

_FINE = 61
# Only runs this near the best tell the noise that matters: at chance there is none.
_NEAR_TOP = 0.10
_LENGTHS = (0.7, 1.0, 1.5, 2.2, 3.3)
_AMPLITUDE = 0.2


@dataclass(frozen=True)
class Box:
    """Ranges of the knobs, as a user might give them."""

    low: Point
    high: Point


@dataclass(frozen=True)
class Landscape:
    """True accuracy over two knobs.

    Attributes:
        name: The recording's.
        knobs: The knobs' names.
        axes: The recorded values of each knob, ascending.
        nodes: (k, l), true accuracy at the recorded points, in [0, 1].
        noise: Standard deviation of a run's validation accuracy over seeds, near the top.
    """

    name: str
    knobs: tuple[str, str]
    axes: tuple[Array, Array]
    nodes: Array
    noise: float

    @property
    def epsilon(self) -> float:
        """What counts as near-optimal: half a point, or one standard deviation of the noise where that is more."""
        return max(0.005, self.noise)

    def truth(self, points: list[Point]) -> Array:
        """True accuracy at points inside the recorded ranges."""
        lines, columns = (np.array([math.log(point[knob]) for point in points]) for knob in self.knobs)
        along = self._along_second(columns)
        return np.array([PchipInterpolator(self._logs[0], values)(x) for x, values in zip(lines, along, strict=True)])

    def between(self, logs: Array) -> Array:
        """True accuracy at points (n, 2) in logarithms, linear between those of a fine grid: quick for very many."""
        values: Array = self._fine(logs)
        return values

    def best(self, box: Box) -> float:
        """The highest true accuracy inside a box."""
        inside = [self._inside(box, knob) for knob in range(2)]
        along = self._fine_second(tuple(inside[1]))
        return float(PchipInterpolator(self._logs[0], along, axis=1)(inside[0]).max())

    def peak(self) -> Point:
        """Where the truth is highest."""
        fine = [np.linspace(logs[0], logs[-1], 4 * _FINE) for logs in self._logs]
        values = PchipInterpolator(self._logs[0], self._along_second(fine[1]), axis=1)(fine[0])
        second, first = np.unravel_index(int(values.argmax()), values.shape)
        return {self.knobs[0]: math.exp(fine[0][first]), self.knobs[1]: math.exp(fine[1][second])}

    def crop(self, rng: np.random.Generator) -> Box:
        """The recorded box less a random part, up to half, off one side of each knob's range; the peak stays inside."""
        peak = self.peak()
        low, high = {}, {}
        for knob, logs in zip(self.knobs, self._logs, strict=True):
            cut = rng.uniform(0.0, 0.5) * (logs[-1] - logs[0])
            bottom, top = (logs[0] + cut, logs[-1]) if rng.random() < 0.5 else (logs[0], logs[-1] - cut)
            margin = 0.05 * (top - bottom)
            centre = math.log(peak[knob])
            low[knob] = math.exp(max(logs[0], min(bottom, centre - margin)))
            high[knob] = math.exp(min(logs[-1], max(top, centre + margin)))
        return Box(low, high)

    @cached_property
    def _logs(self) -> tuple[Array, Array]:
        return np.log(self.axes[0]), np.log(self.axes[1])

    @cached_property
    def _fine(self) -> RegularGridInterpolator:
        fine = [np.linspace(logs[0], logs[-1], 2 * _FINE) for logs in self._logs]
        values = PchipInterpolator(self._logs[0], self._along_second(fine[1]), axis=1)(fine[0])
        return RegularGridInterpolator(fine, values.T)

    def _along_second(self, columns: Array) -> Array:
        values: Array = PchipInterpolator(self._logs[1], self.nodes, axis=1)(columns).T
        return values

    def _fine_second(self, columns: tuple[float, ...]) -> Array:
        return self._along_second(np.array(columns))

    def _inside(self, box: Box, knob: int) -> Array:
        name = self.knobs[knob]
        return np.linspace(math.log(box.low[name]), math.log(box.high[name]), _FINE)


def load(path: Path) -> Landscape:
    """The landscape of a recording."""
    recording = Recording.model_validate_json(path.read_text(encoding="utf-8"))
    first, second = recording.grid
    axes = (np.array(sorted(recording.grid[first])), np.array(sorted(recording.grid[second])))
    runs: dict[tuple[float, ...], list[Run]] = {}
    for run in recording.runs:
        runs.setdefault((run.params[first], run.params[second]), []).append(run)
    chance = 1.0 / recording.classes
    points = list(itertools.product(*axes))
    finals = [[_final(run, chance) for run in runs[point]] for point in points]
    tests = [[chance if run.diverged else run.test_accuracy for run in runs[point]] for point in points]
    means = np.array([(fmean(a) + fmean(b)) / 2 for a, b in zip(finals, tests, strict=True)])
    near = [values for values in finals if fmean(values) > max(map(fmean, finals)) - _NEAR_TOP]
    noise = math.sqrt(fmean(np.var(values, ddof=1) for values in near))
    # The mean of validation and test of one seed is about as noisy as validation alone: the seed is the larger part
    error = noise / math.sqrt(fmean(map(len, finals)))
    smooth = smoothed(np.log(np.array(points)), means, error)
    return Landscape(path.stem, (first, second), axes, smooth.reshape(len(axes[0]), len(axes[1])), noise)


def load_decay(task: str, *, noise: float) -> Landscape:
    """The landscape of (lr, weight_decay) of one of the accuracy benchmark's tasks: the usual training.

    Its grid was laid around the best points, one and a half decades of either knob, so it is an easy box.

    Args:
        task: A name in :data:`accuracy.tasks.TASKS`.
        noise: Standard deviation of a run over seeds; most points of this grid have one seed only.
    """
    runs: dict[tuple[float, float], list[float]] = {}
    for outcome in read_outcomes("methods").values():
        way = outcome.run.way
        if outcome.run.task == task and way.hold == "no" and way.decayed == "all" and way.weight_decay > 0:
            runs.setdefault((way.lr, way.weight_decay), []).append((outcome.validation + outcome.test) / 2)
    axes = (np.array(sorted({first for first, _ in runs})), np.array(sorted({second for _, second in runs})))
    points = list(itertools.product(*axes))
    means = np.array([fmean(runs[point]) for point in points])
    smooth = smoothed(np.log(np.array(points)), means, noise)
    return Landscape(f"{task}-decay", ("lr", "weight_decay"), axes, smooth.reshape(len(axes[0]), -1), noise)


def _final(run: Run, chance: float) -> float:
    return chance if run.diverged else run.validation_accuracy[-1]


def smoothed(points: Array, values: Array, error: float) -> Array:
    """The posterior mean of a Gaussian process (Rasmussen and Williams 2006, eq. 2.25), lengths by evidence."""
    centred = values - values.mean()
    best, chosen = -math.inf, values
    for lengths in itertools.product(_LENGTHS, repeat=2):
        scaled = points / np.array(lengths)
        kernel = _AMPLITUDE**2 * matern52(cdist(scaled, scaled))
        factor = cho_factor(kernel + error**2 * np.eye(len(values)), lower=True)
        weights = cho_solve(factor, centred)
        evidence = -0.5 * centred @ weights - np.log(np.diag(factor[0])).sum()
        if evidence > best:
            best, chosen = evidence, values.mean() + kernel @ weights
    return chosen
