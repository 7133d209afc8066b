"""How many trials each sampler needs on made-up surfaces: a sketch, to compare ideas before real surfaces are recorded.

Every surface has its optimum at a random place, a random part of the box is cut off one side of each knob so that the
centre says nothing, and every trial has Gaussian noise of 0.8 points. "Trials" is the first trial after which the best
*observed* point is truly within 0.8 points of the surface's best, censored at the number of trials plus one; the regret
columns are in points, of the same recommended point. The surfaces are ours and not measured: they show whether a
sampler finds such shapes, not that real ones look like this.

    python benchmarks/sampler_sketch.py --seeds 30 --trials 20
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

# One thread per process, before numpy and torch read them: the processes share the cores already.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from fixnorm_core.tuning.attributes import DIVERGED
from fixnorm_core.tuning.sampler import FixNormSampler

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


def flat(rng: np.random.Generator) -> Surface:
    """A wrong shape: nothing to find."""
    return Surface(_cropped(rng, np.array([-2.0, 0.4])), lambda logs: np.full(len(logs), 60.0), math.inf)


def two_peaks(rng: np.random.Generator) -> Surface:
    """A wrong shape: a narrow best peak and a wide second one."""
    peaks = np.stack([rng.uniform(-3.6, -0.4, 2), rng.uniform(-0.4, 1.0, 2)], axis=1)
    size = np.array([LR_DECADES, FC_DECADES])

    def accuracy(logs: Array) -> Array:
        first, second = (np.sum(((logs - peak) / size) ** 2, axis=1) for peak in peaks)
        points: Array = 40.0 + 20.0 * np.exp(-first / 0.02) + 17.0 * np.exp(-second / 0.05)
        return points

    return Surface(_cropped(rng, peaks[0]), accuracy, math.inf)


def ridge(rng: np.random.Generator) -> Surface:
    """A wrong shape: what counts is the product of the knobs, as it is with weight decay."""
    peak = np.array([rng.uniform(-3.2, -0.8), rng.uniform(-0.3, 0.9)])

    def accuracy(logs: Array) -> Array:
        lr, fc = (logs - peak).T
        points: Array = 60.0 - 30.0 * np.minimum((lr + fc) ** 2, 1.0) - 1.0 * (lr - fc) ** 2
        return points

    return Surface(_cropped(rng, peak), accuracy, math.inf)


SURFACES: dict[str, Callable[[np.random.Generator], Surface]] = {
    "separable": partial(separable, indifferent=False),
    "indifferent": partial(separable, indifferent=True),
    "two peaks": two_peaks,
    "ridge": ridge,
    "flat": flat,
}

SAMPLERS: dict[str, Callable[[Space, int], BaseSampler]] = {
    "FixNorm": lambda space, seed: FixNormSampler(space, seed=seed),
    "GP, 4 start-up": lambda _, seed: GPSampler(seed=seed, n_startup_trials=4),
    "GP": lambda _, seed: GPSampler(seed=seed),
    "TPE, 4 start-up": lambda _, seed: TPESampler(seed=seed, n_startup_trials=4),
    "TPE": lambda _, seed: TPESampler(seed=seed),
    "CMA-ES": lambda _, seed: CmaEsSampler(seed=seed),
    "QMC": lambda _, seed: QMCSampler(seed=seed, scramble=True, warn_asynchronous_seeding=False),
    "random": lambda _, seed: RandomSampler(seed=seed),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One study.

    Attributes:
        regrets: After each trial, points that the best observed point truly lacks.
        stopped: Trials after which the sampler's own stop first fired; None when it did not or has none.
        suggestion_seconds: Mean processor time of a suggestion.
    """

    regrets: tuple[float, ...]
    stopped: int | None
    suggestion_seconds: float


def run(sampler: str, surface_name: str, seed: int, *, trials: int) -> Run:
    """Runs one study of ``trials`` trials; surface and noise depend on ``seed`` alone, the same for every sampler."""
    rng = np.random.default_rng(seed)
    surface = SURFACES[surface_name](rng)
    best = surface.best()
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS[sampler](surface.space, seed))
    regrets, seconds, stopped, leader = [], 0.0, None, (-math.inf, 0.0)
    for number in range(trials):
        begin = time.process_time()
        trial = study.ask(surface.space)
        seconds += time.process_time() - begin
        logs = np.log10([trial.params["lr"], trial.params["fc_norm"]])
        truth = float(surface.accuracy(logs[None])[0])
        value = truth + NOISE * rng.standard_normal()
        if logs[0] > surface.diverges_above:
            trial.set_user_attr(DIVERGED, True)
        study.tell(trial, value)
        leader = max(leader, (value, truth))
        regrets.append(best - leader[1])
        if stopped is None and isinstance(study.sampler, FixNormSampler) and study.sampler.stop_reason(study):
            stopped = number + 1
    return Run(tuple(regrets), stopped, seconds / trials)


def main() -> None:
    """Prints one table per surface."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--surfaces", nargs="+", choices=SURFACES, default=list(SURFACES))
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with multiprocessing.get_context("fork").Pool(args.processes) as pool:
        for surface in args.surfaces:
            print(f"\n{surface}: {args.seeds} seeds, {args.trials} trials, noise {NOISE} points")
            print(f"{'sampler':16}{'trials ± se':>16}{'regret 5':>10}{'10':>7}{'last':>7}{'stop after':>22}{'ms':>6}")
            for sampler in args.samplers:
                one = partial(run, sampler, surface, trials=args.trials)
                print(_row(sampler, pool.map(one, range(args.seeds))), flush=True)


def _row(sampler: str, runs: list[Run]) -> str:
    regrets = np.array([r.regrets for r in runs])
    near = regrets <= NOISE
    trials = np.where(near.any(axis=1), near.argmax(axis=1) + 1, regrets.shape[1] + 1)
    error = trials.std(ddof=1) / math.sqrt(len(trials))
    stops = [(r.stopped, r.regrets[r.stopped - 1]) for r in runs if r.stopped is not None]
    stop = (
        f"{np.mean([s for s, _ in stops]):.1f} ({len(stops)}), regret {np.mean([g for _, g in stops]):.2f}"
        if stops
        else ""
    )
    after = "".join(f"{regrets[:, column].mean():{width}.2f}" for column, width in ((4, 10), (9, 7), (-1, 7)))
    ms = 1e3 * np.mean([r.suggestion_seconds for r in runs])
    return f"{sampler:16}{trials.mean():9.1f} ± {error:.1f} {after}{stop:>24}{ms:6.0f}"


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


if __name__ == "__main__":
    main()
