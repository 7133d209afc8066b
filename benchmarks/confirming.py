"""What confirming buys: the k best points run r times again, out of one budget of trials, on the recorded surfaces.

    python benchmarks/confirming.py --seeds 20

Nothing is trained, as in benchmarks/few_trial.py, whose surfaces, noise and cropped boxes these are. Every study
searches with what its budget leaves beside ``k * r`` confirming runs. Then the points are chosen, repeated and compared
as a job does it (fixnorm_core.tuning.recommend), once by the sampler's posterior mean and once by the mean of a point's
runs less one standard error; "luckiest" is the point of the highest single run, which is never done.

- regret: points of true accuracy that the recommended point lacks of the best in the box;
- bias: reported accuracy less the true one of the recommended point;
- within: share of studies whose truth is within one standard error of the report (0.68 if that were normal and known).
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

# One thread per process, before numpy reads them: the processes share the cores already
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import optuna
import pages
from few_trial.contest import START
from few_trial.results import RECORDED
from few_trial.surfaces import Box, Landscape, load
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, create_trial

from fixnorm_core.tuning.attributes import CONFIRM, KIND
from fixnorm_core.tuning.recommend import Point, Recommendation, complete_points, point_of, recommend, to_confirm
from fixnorm_core.tuning.sampler import FixNormSampler

SCHEMES = ((1, 0), (1, 2), (2, 1), (2, 2), (3, 1))
RULES = ("luckiest", "mean", "posterior")
SAMPLERS = ("FixNorm", "FixNorm, default start", "random")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one study under one scheme and rule, in points."""

    regret: float
    bias: float
    error: float


class Study:
    """One search of ``budget`` trials in a box of a surface, cut by the seed."""

    def __init__(self, sampler: str, surface: Landscape, *, seed: int, budget: int) -> None:
        self.surface = surface
        self._box = surface.crop(np.random.default_rng((seed, 1)))
        self._best = surface.best(self._box)
        self.space: dict[str, BaseDistribution] = {
            knob: FloatDistribution(self._box.low[knob], self._box.high[knob], log=True) for knob in surface.knobs
        }
        start = _inside(START, self._box) if sampler == "FixNorm, default start" else None
        self._ours = FixNormSampler(self.space, seed=seed, start=start)
        study = optuna.create_study(
            sampler=RandomSampler(seed=seed) if sampler == "random" else self._ours, direction="maximize"
        )
        rng = np.random.default_rng((seed, 2))
        for _ in range(budget):
            trial = study.ask(self.space)
            study.tell(trial, self._measure(trial.params, rng))
        self._trials = study.trials

    def outcome(self, rng: np.random.Generator, *, k: int, r: int, rule: str) -> Outcome:
        """Of the same search cut short by the confirming runs, whose luck ``rng`` draws."""
        trials = list(self._trials[: len(self._trials) - k * r])
        points = to_confirm(trials, validation_examples=None, top_k=k, expected=self._expected(trials, rule))
        for point in [point for point in points for _ in range(r)]:
            value = self._measure(point, rng)
            run = create_trial(value=value, params=point, distributions=self.space, user_attrs={KIND: CONFIRM})
            run.number = len(trials)
            trials.append(run)
        if rule == "luckiest":
            best = max(trials, key=lambda trial: trial.value or 0.0)
            return self._judged(best.params, best.value or 0.0, math.nan)
        found: Recommendation | None = recommend(
            trials, validation_examples=None, expected=self._expected(trials, rule)
        )
        assert found is not None
        return self._judged(found.params, found.mean, found.standard_error)

    def _expected(self, trials: Sequence[FrozenTrial], rule: str) -> dict[Point, float] | None:
        if rule != "posterior":
            return None
        study = optuna.create_study(direction="maximize")
        study.add_trials(trials)
        points = complete_points(trials)
        return {point_of(point): mean for point, mean in zip(points, self._ours.expected(study, points), strict=True)}

    def _measure(self, params: Mapping[str, float], rng: np.random.Generator) -> float:
        return self._truth(params) + self.surface.noise * float(rng.standard_normal())

    def _truth(self, params: Mapping[str, float]) -> float:
        return float(self.surface.truth([dict(params)])[0])

    def _judged(self, params: Mapping[str, float], reported: float, error: float) -> Outcome:
        truth = self._truth(params)
        return Outcome(100 * (self._best - truth), 100 * (reported - truth), 100 * error)


def study_outcomes(task: tuple[str, str, int, int]) -> dict[tuple[int, int, str], Outcome]:
    """One study's outcomes under every scheme (k, r) and rule."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler, name, seed, budget = task
    study = Study(sampler, _landscape(name), seed=seed, budget=budget)
    return {
        (k, r, rule): study.outcome(np.random.default_rng((seed, 3)), k=k, r=r, rule=rule)  # the same luck for all
        for k, r in SCHEMES
        for rule in RULES
        if rule != "luckiest" or r == 0
    }


def main() -> None:
    """Prints one table for each sampler, over all surfaces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--surfaces", nargs="+", choices=RECORDED, default=list(RECORDED))
    arguments = parser.parse_args()
    with multiprocessing.get_context("forkserver").Pool(arguments.processes) as pool:
        for sampler in arguments.samplers:
            found = defaultdict(list)
            tasks = [
                (sampler, name, seed, arguments.budget)
                for name in arguments.surfaces
                for seed in range(arguments.seeds)
            ]
            for outcomes in pool.imap_unordered(study_outcomes, tasks):
                for scheme, outcome in outcomes.items():
                    found[scheme].append(outcome)
            rows = [[str(k), str(r), rule, *_cells(found[k, r, rule])] for k, r, rule in found]
            print(f"\n{sampler}, {len(tasks)} studies of {arguments.budget} trials:\n")
            print(pages.table(["k", "r", "rule", "regret", "bias", "within"], rows), flush=True)


@cache
def _landscape(name: str) -> Landscape:
    return load(RECORDED[name])


def _cells(outcomes: Sequence[Outcome]) -> tuple[str, str, str]:
    known = [abs(outcome.bias) <= outcome.error for outcome in outcomes if math.isfinite(outcome.error)]
    return (
        _mean(outcome.regret for outcome in outcomes),
        _mean(outcome.bias for outcome in outcomes),
        f"{np.mean(known):.2f}" if known else "",
    )


def _mean(values: Iterable[float]) -> str:
    numbers = np.array(list(values))
    return f"{numbers.mean():.2f} ± {numbers.std(ddof=1) / math.sqrt(len(numbers)):.2f}"


def _inside(point: Mapping[str, float], box: Box) -> dict[str, float]:
    return {knob: min(max(value, box.low[knob]), box.high[knob]) for knob, value in point.items()}


if __name__ == "__main__":
    main()
