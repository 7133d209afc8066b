"""Objectives that have nothing to do with this project, through Optuna's public interface alone, by every sampler.

    python benchmarks/elsewhere.py --seeds 10

Nothing here is measured: the objectives are made up, in units, ranges and kinds of parameters that the sampler was not
made on, and several break what it expects. What is told after 10, 20 and 30 trials is the true value of the trial that
Optuna calls the best (the highest that was seen, for every sampler), as the share that it lacks of the way from the
median of random points (1) to the best there is (0), the best of twenty thousand of them and of all studies.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

# One thread per process, before numpy and torch read them: the processes share the cores already
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import optuna
import pages
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import Trial

from fixnorm_core.tuning.sampler import FixNormSampler

AFTER = (10, 20, 30)
RANDOM_POINTS = 20_000
Space = dict[str, BaseDistribution]
Params = dict[str, Any]


@dataclass(frozen=True)
class Objective:
    """What is maximized.

    Attributes:
        space: The parameters.
        truth: The value without noise; NaN where a run gives none.
        noise: Standard deviation of a run.
        raises: Whether a run without a value raises instead of returning NaN.
    """

    space: Space
    truth: Callable[[Params], float]
    noise: float
    raises: bool = False


def _log(low: float, high: float) -> FloatDistribution:
    return FloatDistribution(low, high, log=True)


def _percent(at: Params) -> float:
    """Accuracy in percent over eight decades of lr, that falls to zero a decade and a half above the best."""
    x, y = math.log10(at["lr"] / 0.3), math.log10(at["decay"] / 3e-4)
    return 0.0 if x > 1.0 else 91.0 - 6.0 * abs(x) ** 1.6 - 2.5 * y**2


def _log_loss(at: Params) -> float:
    """Minus a cross-entropy; one and a half decades of lr; the best lr falls with the width."""
    x = math.log(at["lr"] / 4e-3 * math.sqrt(at["width"] / 128))
    excess = 0.25 * x**2 + 0.9 * (at["dropout"] - 0.25) ** 2 + 0.06 * math.log2(at["width"] / 256) ** 2
    return -0.31 - 2.0 * math.tanh(float(excess) / 2.0)


def _kinds(at: Params) -> float:
    """Accuracy between 0.9 and 0.98 over five parameters; every optimizer has a best learning rate of its own."""
    best = {"sgd": 0.1, "adam": 1e-3, "rmsprop": 3e-3}[str(at["optimizer"])]
    cost = {"sgd": 0.0, "adam": 0.004, "rmsprop": 0.012}[str(at["optimizer"])]
    x = math.log10(at["learning_rate"] / best)
    cost += 0.02 * x**2 + 0.002 * abs(at["layers"] - 4) + 0.002 * abs(math.log2(at["batch"] / 64))
    return 0.98 - 0.08 * math.tanh((cost + 0.05 * (at["momentum"] - 0.9) ** 2) / 0.08)


def _border(at: Params) -> float:
    """The best point is a corner of the box: the higher the rate, the better, and the less smoothing."""
    x, y = math.log10(at["lr"] / 1e-5) / 4.0, at["smoothing"] / 0.5
    return 0.35 + 0.4 * math.tanh(1.5 * x) - 0.12 * y


def _cliffs(at: Params) -> float:
    """Chance below, a good decade, then 0.1, then no value at all."""
    x = math.log10(at["lr"] / 2e-3)
    if x > 1.0:
        return math.nan
    learned = 1.0 / (1.0 + math.exp(-6.0 * (x + 0.8))) if x < 0.4 else 0.0
    return 0.1 + 0.62 * learned - 0.05 * abs(math.log(at["fc"] / 5.0)) * learned


def _valley(at: Params) -> float:
    """A coefficient of determination, below zero for most, along a valley where a product counts; very noisy."""
    a, b = math.log10(at["alpha"]), math.log10(at["gamma"])
    return 0.8 - 0.25 * (a + b + 2.0) ** 2 - 0.02 * (a - b - 1.0) ** 2


def _reward(at: Params) -> float:
    """Rewards in the hundreds, two separate optima in the learning rate; four parameters."""
    x = math.log10(at["learning_rate"])
    peaks = 620.0 * math.exp(-(((x + 2.2) / 0.5) ** 2)) + 480.0 * math.exp(-(((x + 4.2) / 0.8) ** 2))
    peaks *= 1.0 if at["norm"] == "layer" else 0.9
    return -500.0 + peaks - 900.0 * (0.99 - float(at["gamma"])) ** 2 - 15.0 * int(at["skip"])


def _two_of_two(at: Params) -> float:
    """A score of two log-scaled knobs: a broad optimum, and a higher one, two thirds as wide, at another step size."""
    x, y = math.log10(at["step"]), math.log10(at["clip"])
    broad = 0.7 * math.exp(-(((x + 4.0) / 1.0) ** 2) - ((y / 1.0) ** 2))
    return 30.0 * max(broad, math.exp(-(((x + 1.0) / 0.65) ** 2) - ((y / 1.0) ** 2)))


def _two_of_three(at: Params) -> float:
    """A loss, negated: each kind of optimizer has a best rate of its own, and the better one forgives less."""
    x, y = math.log10(at["lr"]), at["dropout"]
    best, width, gain = (-3.5, 1.0, 1.5) if at["kind"] == "adam" else (-0.8, 0.6, 2.0)
    return -2.5 + gain * math.exp(-(((x - best) / width) ** 2)) - 1.0 * (y - 0.2) ** 2


def _two_of_five(at: Params) -> float:
    """Points in a game: few layers at a high rate or many at a low one; five parameters."""
    x = math.log10(at["rate"])
    few = math.exp(-(((x + 1.5) / 0.8) ** 2) - ((at["layers"] - 3) / 3.0) ** 2)
    many = 0.8 * math.exp(-(((x + 3.8) / 1.1) ** 2) - ((at["layers"] - 9) / 4.0) ** 2)
    rest = 0.15 * math.log10(at["decay"] / 1e-3) ** 2 + 2.0 * (at["mix"] - 0.4) ** 2
    return 1200.0 * max(few, many) - 60.0 * rest - (40.0 if at["pool"] == "max" else 0.0)


OBJECTIVES: dict[str, Objective] = {
    "percent": Objective({"lr": _log(1e-7, 10.0), "decay": _log(1e-6, 0.1)}, _percent, 0.5),
    "log loss": Objective(
        {"lr": _log(5e-4, 2e-2), "dropout": FloatDistribution(0.0, 0.7), "width": IntDistribution(16, 512, log=True)},
        _log_loss,
        0.02,
    ),
    "five kinds": Objective(
        {
            "learning_rate": _log(1e-4, 1.0),
            "optimizer": CategoricalDistribution(["adam", "rmsprop", "sgd"]),
            "layers": IntDistribution(1, 8),
            "batch": IntDistribution(8, 512, log=True),
            "momentum": FloatDistribution(0.5, 0.99),
        },
        _kinds,
        0.002,
    ),
    "border": Objective({"lr": _log(1e-5, 0.1), "smoothing": FloatDistribution(0.0, 0.5)}, _border, 0.005),
    "cliffs, NaN": Objective({"lr": _log(1e-6, 1.0), "fc": _log(0.1, 100.0)}, _cliffs, 0.01),
    "cliffs, raising": Objective({"lr": _log(1e-6, 1.0), "fc": _log(0.1, 100.0)}, _cliffs, 0.01, raises=True),
    "noisy valley": Objective({"alpha": _log(1e-4, 1e2), "gamma": _log(1e-4, 1e1)}, _valley, 0.1),
    "rewards": Objective(
        {
            "learning_rate": _log(1e-6, 0.1),
            "gamma": FloatDistribution(0.9, 0.999),
            "norm": CategoricalDistribution(["none", "layer"]),
            "skip": IntDistribution(1, 4),
        },
        _reward,
        20.0,
    ),
    "two of two": Objective({"step": _log(1e-6, 1.0), "clip": _log(1e-2, 1e2)}, _two_of_two, 0.5),
    "two of three": Objective(
        {
            "lr": _log(1e-6, 1.0),
            "kind": CategoricalDistribution(["adam", "sgd"]),
            "dropout": FloatDistribution(0.0, 0.6),
        },
        _two_of_three,
        0.05,
    ),
    "two of five": Objective(
        {
            "rate": _log(1e-6, 1.0),
            "layers": IntDistribution(1, 12),
            "decay": _log(1e-6, 1e-1),
            "mix": FloatDistribution(0.0, 1.0),
            "pool": CategoricalDistribution(["mean", "max", "both"]),
        },
        _two_of_five,
        25.0,
    ),
}

SAMPLERS: dict[str, Callable[[Space, int], BaseSampler]] = {
    "FixNorm": lambda space, seed: FixNormSampler(space, seed=seed),
    "GP": lambda _, seed: GPSampler(seed=seed),
    "GP, 4 start-up": lambda _, seed: GPSampler(seed=seed, n_startup_trials=4),
    "TPE": lambda _, seed: TPESampler(seed=seed),
    "CMA-ES": lambda _, seed: CmaEsSampler(seed=seed),
    "random": lambda _, seed: RandomSampler(seed=seed),
}


class Diverged(Exception):
    """A run without a value."""


def study(task: tuple[str, str, int]) -> list[float]:
    """The true value of Optuna's best trial after each of AFTER; NaN while no trial is complete."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore")
    name, sampler, seed = task
    objective = OBJECTIVES[name]
    noise = objective.noise * np.random.default_rng((seed, 2)).standard_normal(AFTER[-1])

    def run(trial: Trial) -> float:
        value = objective.truth({knob: trial._suggest(knob, limits) for knob, limits in objective.space.items()})
        if math.isnan(value) and objective.raises:
            raise Diverged
        return value + float(noise[trial.number])

    made = optuna.create_study(direction="maximize", sampler=SAMPLERS[sampler](objective.space, seed))
    found = []
    for trials in (AFTER[0], *np.diff(AFTER)):
        made.optimize(run, n_trials=int(trials), catch=(Diverged,))
        done = any(trial.value is not None for trial in made.trials)
        found.append(objective.truth(made.best_params) if done else math.nan)
    return found


@cache
def spread(name: str) -> tuple[float, float]:
    """The median and the highest of the true values of random points."""
    objective = OBJECTIVES[name]
    rng = np.random.default_rng(0)
    values = [objective.truth(_anywhere(objective.space, rng)) for _ in range(RANDOM_POINTS)]
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)), max(known)


def _anywhere(space: Space, rng: np.random.Generator) -> Params:
    return {knob: _one(limits, rng) for knob, limits in space.items()}


def _one(limits: BaseDistribution, rng: np.random.Generator) -> Any:
    if isinstance(limits, CategoricalDistribution):
        return limits.choices[rng.integers(len(limits.choices))]
    assert isinstance(limits, FloatDistribution | IntDistribution)
    value = rng.uniform(limits.low, limits.high)
    if limits.log:
        value = math.exp(rng.uniform(math.log(limits.low), math.log(limits.high)))
    return round(value) if isinstance(limits, IntDistribution) else value


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    with multiprocessing.get_context("forkserver").Pool(arguments.processes) as pool:
        for name in arguments.objectives:
            tasks = [(name, sampler, seed) for sampler in arguments.samplers for seed in seeds]
            found = np.array(pool.map(study, tasks, chunksize=1)).reshape(len(arguments.samplers), len(seeds), -1)
            middle, best = spread(name)
            best = max(best, float(np.nanmax(found)))
            lacks = np.where(np.isnan(found), 1.0, (best - found) / (best - middle))
            rows = [
                [sampler, *(f"{mean:.3f} ± {error:.3f}" for mean, error in zip(*_over_seeds(own), strict=True))]
                for sampler, own in zip(arguments.samplers, lacks, strict=True)
            ]
            print(pages.table([name, *(f"after {n}" for n in AFTER)], rows), "\n", flush=True)


def _over_seeds(own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return own.mean(axis=0), own.std(axis=0, ddof=1) / math.sqrt(len(own))


if __name__ == "__main__":
    main()
