"""Learning curves recorded from real training, over a grid of knobs and several seeds.

Made by ``benchmarks/record_surface.py``; replayed by :mod:`worker.simulator`.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from fixnorm_core.spec import JobSpec, Method

__all__ = ["Recording", "Run"]


class Run(BaseModel):
    """One recorded training run.

    Attributes:
        params: The knobs, a point of the grid.
        seed: The trial's seed.
        validation_accuracy: After each epoch.
        validation_loss: Likewise.
        train_loss: Likewise.
        train_accuracy: Likewise.
        head_norm: Likewise.
        test_accuracy: Of the final weights. Replayed only for the one configuration that a job ends with.
        diverged: Whether the run diverged; its curves then end early.
        seconds: Mean wall time of an epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: dict[str, float]
    seed: int
    validation_accuracy: tuple[float, ...]
    validation_loss: tuple[float, ...]
    train_loss: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    head_norm: tuple[float, ...]
    test_accuracy: float
    diverged: bool
    seconds: float


class Recording(BaseModel):
    """A surface: every run of a full grid.

    Attributes:
        about: One sentence on what was recorded, with the package versions and the date.
        job: The job whose model, data and training were recorded.
        grid: The recorded values of each knob, ascending.
        seeds: The recorded seeds.
        validation_examples: Size of the validation split.
        test_examples: Size of the test split.
        classes: Number of classes.
        runs: One per point of the grid and seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    job: JobSpec
    grid: dict[str, tuple[float, ...]]
    seeds: tuple[int, ...]
    validation_examples: int
    test_examples: int
    classes: int
    runs: tuple[Run, ...]

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        points = math.prod(len(values) for values in self.grid.values()) * len(self.seeds)
        if points != len(self.runs):
            raise ValueError(f"{len(self.runs)} runs do not fill a grid of {points} points and seeds")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a recording."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

    @classmethod
    def packaged(cls, name: str = "digits") -> Self:
        """A recording that ships with this package."""
        return cls.model_validate_json((files("worker") / "recordings" / f"{name}.json").read_text(encoding="utf-8"))

    @property
    def method(self) -> Method:
        """What was tuned."""
        return self.job.search.method

    def at(self, params: dict[str, float], *, seed: int) -> Run:
        """A run between the recorded ones: curves are interpolated linearly in the logarithms of the knobs.

        Outside the grid the border is used. Seeds beyond the recorded ones wrap around. A point is taken to diverge
        when the recorded run nearest to it does.
        """
        recorded = self.seeds[seed % len(self.seeds)]
        corners = [(self._run(point, recorded), weight) for point, weight in self._corners(params)]
        nearest = max(corners, key=lambda corner: corner[1])[0]
        if nearest.diverged:
            return nearest.model_copy(update={"params": params, "seed": seed})
        alive = [(run, weight) for run, weight in corners if not run.diverged]
        blended: dict[str, Any] = {
            name: tuple(_blend([getattr(run, name)[epoch] for run, _ in alive], alive) for epoch in range(len(curve)))
            for name in _CURVES
            if (curve := getattr(nearest, name)) is not None
        }
        test_accuracy = _blend([run.test_accuracy for run, _ in alive], alive)
        return nearest.model_copy(update=blended | {"params": params, "seed": seed, "test_accuracy": test_accuracy})

    def _run(self, point: dict[str, float], seed: int) -> Run:
        return next(run for run in self.runs if run.seed == seed and run.params == point)

    def _corners(self, params: dict[str, float]) -> list[tuple[dict[str, float], float]]:
        """The grid points around ``params`` and their weights, which sum to one; those of weight zero left out."""
        sides = [[(knob, *end) for end in _bracket(self.grid[knob], params[knob])] for knob in self.grid]
        corners = []
        for corner in itertools.product(*sides):
            weight = math.prod(share for _, _, share in corner)
            if weight > 0:
                corners.append(({knob: value for knob, value, _ in corner}, weight))
        return corners


_CURVES = ("validation_accuracy", "validation_loss", "train_loss", "train_accuracy", "head_norm")


def _bracket(values: tuple[float, ...], wanted: float) -> list[tuple[float, float]]:
    """The recorded values on either side of ``wanted`` with their shares, by distance on a log scale."""
    if wanted <= values[0]:
        return [(values[0], 1.0)]
    if wanted >= values[-1]:
        return [(values[-1], 1.0)]
    above = bisect_right(values, wanted)
    low, high = values[above - 1], values[above]
    share = math.log(wanted / low) / math.log(high / low)
    return [(low, 1.0 - share), (high, share)]


def _blend(numbers: list[float], corners: list[tuple[Run, float]]) -> float:
    total = sum(weight for _, weight in corners)
    return sum(number * weight for number, (_, weight) in zip(numbers, corners, strict=True)) / total
