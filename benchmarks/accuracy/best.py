"""Which point of each group was best, where between grid points accuracy peaks, and what runs tell of ``G``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from accuracy.runs import Outcome, by_point
from accuracy.studies import CHOOSING_SEEDS, groups
from accuracy.tasks import TASKS
from accuracy.ways import Way
from fixnorm_core.training.schedule import learning_rate_factor

__all__ = ["MOMENTUM", "Best", "best_points", "between", "by_rate", "gradient_norm", "peak"]

MOMENTUM = 0.9
"""Of every run."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best point of a group.

    Attributes:
        way: Its knobs.
        chosen_by: Mean validation accuracy over the seeds that choose.
        test: Test accuracy of each seed that does not choose; empty where none was run.
        train: Mean training accuracy of the same runs.
    """

    way: Way
    chosen_by: float
    test: tuple[float, ...]
    train: float

    @property
    def error(self) -> float:
        """Standard error of the mean test accuracy."""
        return stdev(self.test) / math.sqrt(len(self.test)) if len(self.test) > 1 else math.nan


def best_points(study: str, outcomes: Iterable[Outcome]) -> dict[tuple[str, ...], Best]:
    """The point with the highest mean validation accuracy over the choosing seeds, by group.

    Points that were run with more of the choosing seeds go before those with fewer, so that a single lucky run does not
    win over what was repeated.
    """
    found: dict[tuple[str, ...], list[Best]] = {}
    counts: dict[tuple[str, ...], int] = {}
    for (_, way), same in by_point(outcomes):
        choosing = [one for one in same if one.run.seed in CHOOSING_SEEDS]
        others = [one for one in same if one.run.seed not in CHOOSING_SEEDS]
        if not choosing:
            continue
        group = groups(study, same[0].run)
        best = Best(
            way=way,
            chosen_by=mean(one.validation for one in choosing),
            test=tuple(one.test for one in sorted(others, key=lambda one: one.run.seed)),
            train=mean(one.train for one in (others or choosing)),
        )
        if len(choosing) > counts.get(group, 0):
            counts[group], found[group] = len(choosing), []
        if len(choosing) == counts[group]:
            found[group].append(best)
    return {group: max(points, key=lambda best: best.chosen_by) for group, points in found.items()}


def peak(points: Mapping[float, float]) -> float:
    """Where accuracy peaks: the vertex of the parabola fitted to all points that lose less than four points.

    A single run scatters by about 0.8 points and the top is flat, so the best point of a grid alone says little.

    Args:
        points: Accuracy by learning rate.

    Returns:
        A learning rate inside the grid; a border of it where the parabola rises to there, or has no top.
    """
    best = max(points.values())
    near = {rate: accuracy for rate, accuracy in points.items() if accuracy > best - 0.04}
    rates = sorted(near)
    if len(rates) < 3:
        return max(near, key=lambda rate: near[rate])
    logs = np.log(rates)
    curvature, slope, _ = np.polyfit(logs, [near[rate] for rate in rates], 2)
    if curvature >= 0:
        return rates[0] if near[rates[0]] > near[rates[-1]] else rates[-1]
    return float(np.exp(np.clip(-slope / (2 * curvature), logs[0], logs[-1])))


def by_rate(outcomes: Sequence[Outcome]) -> dict[float, float]:
    """Mean test accuracy by learning rate."""
    found: dict[float, list[float]] = {}
    for one in outcomes:
        found.setdefault(one.run.way.lr, []).append(one.test)
    return {lr: mean(values) for lr, values in found.items()}


def gradient_norm(outcome: Outcome) -> float:
    """``G``, from the rotation per step a fifth into the run; the mean over the held weights and the epoch's steps."""
    look, task = outcome.trace[0], TASKS[outcome.run.task]
    per_epoch = math.ceil((task.data.train_limit or 0) / task.batch_size)
    steps = range((look["epoch"] - 1) * per_epoch, look["epoch"] * per_epoch)
    rate = outcome.run.way.lr * mean(
        learning_rate_factor(step, steps=task.epochs * per_epoch, warmup_fraction=task.training.warmup_fraction)
        for step in steps
    )
    return float(look["rotation"]["scale_invariant"]) * math.sqrt(1 - MOMENTUM**2) / rate


def between(accuracies: Mapping[float, float], rate: float) -> float:
    """Interpolated in the logarithm of the rate; beyond the grid its border."""
    rates = sorted(accuracies)
    if rate <= rates[0] or rate >= rates[-1]:
        return accuracies[rates[0] if rate <= rates[0] else rates[-1]]
    above = next(index for index, one in enumerate(rates) if one >= rate)
    low, high = rates[above - 1], rates[above]
    share = math.log(rate / low) / math.log(high / low)
    return accuracies[low] * (1 - share) + accuracies[high] * share
