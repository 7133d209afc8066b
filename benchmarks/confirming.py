"""What confirming buys: the k best points run r times again, out of one budget of trials, on made-up surfaces.

Every study searches with what its budget leaves beside ``k * r`` confirming runs. Then the points are chosen, repeated
and compared as a job does it (fixnorm_core.tuning.recommend), once by the sampler's posterior mean and once by the mean
of a point's runs less one standard error; "luckiest" is the point of the highest single run, which is never done.

- regret: points of true accuracy that the recommended point lacks to the surface's best;
- bias: reported accuracy less the true one of the recommended point;
- within: share of studies whose truth is within one standard error of the report (0.68 if that were normal and known).

Surfaces and noise (0.8 points a run) are those of benchmarks/made_up_surfaces.py.

    python benchmarks/confirming.py --seeds 40
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from made_up_surfaces import NOISE, SURFACES, Surface  # first: it sets the threads of numpy

import numpy as np  # isort: skip
import optuna
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, create_trial

from fixnorm_core.tuning.attributes import CONFIRM, DIVERGED, KIND
from fixnorm_core.tuning.recommend import Point, Recommendation, complete_points, point_of, recommend, to_confirm
from fixnorm_core.tuning.sampler import FixNormSampler

SCHEMES = ((1, 0), (1, 2), (2, 1), (2, 2), (3, 1))
RULES = ("luckiest", "mean", "posterior")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one study under one scheme and rule, in points."""

    regret: float
    bias: float
    error: float


def study_outcomes(sampler: str, surface_name: str, seed: int, *, budget: int) -> dict[tuple[int, int, str], Outcome]:
    """One study's outcomes under every scheme (k, r) and rule."""
    rng = np.random.default_rng(seed)
    surface = SURFACES[surface_name](rng)
    ours = FixNormSampler(surface.space, seed=seed)
    study = optuna.create_study(sampler=RandomSampler(seed=seed) if sampler == "random" else ours, direction="maximize")
    for _ in range(budget):
        trial = study.ask(surface.space)
        value, diverged = _measure(surface, trial.params, rng)
        trial.set_user_attr(DIVERGED, diverged)
        study.tell(trial, value)
    outcomes = {}
    for k, r in SCHEMES:
        for rule in RULES:
            if rule != "luckiest" or r == 0:
                noise = np.random.default_rng([seed, 1])  # the same luck for all
                outcomes[k, r, rule] = _finish(study, ours, surface, noise, k=k, r=r, rule=rule, budget=budget)
    return outcomes


def _finish(
    study: Study,
    ours: FixNormSampler,
    surface: Surface,
    rng: np.random.Generator,
    *,
    k: int,
    r: int,
    rule: str,
    budget: int,
) -> Outcome:
    """The same study with fewer search trials, and its confirming runs."""
    trials = list(study.trials[: budget - k * r])
    points = to_confirm(trials, validation_examples=None, top_k=k, expected=_expected(trials, ours, rule))
    for point in [point for point in points for _ in range(r)]:
        value, diverged = _measure(surface, point, rng)
        attributes = {KIND: CONFIRM, DIVERGED: diverged}
        run = create_trial(value=value, params=point, distributions=surface.space, user_attrs=attributes)
        run.number = len(trials)
        trials.append(run)
    if rule == "luckiest":
        best = max((trial for trial in trials if not trial.user_attrs[DIVERGED]), key=lambda trial: trial.value or 0.0)
        return _outcome(surface, best.params, best.value or 0.0, math.nan)
    found: Recommendation | None = recommend(trials, validation_examples=None, expected=_expected(trials, ours, rule))
    assert found is not None
    return _outcome(surface, found.params, found.mean, found.standard_error)


def _expected(trials: list[FrozenTrial], ours: FixNormSampler, rule: str) -> dict[Point, float] | None:
    if rule != "posterior":
        return None
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    points = complete_points(trials)
    return {point_of(point): mean for point, mean in zip(points, ours.expected(study, points), strict=True)}


def _measure(surface: Surface, params: Mapping[str, float], rng: np.random.Generator) -> tuple[float, bool]:
    """A noisy accuracy as a fraction, and whether the run diverged."""
    value = (_truth(surface, params) + NOISE * rng.standard_normal()) / 100
    return value, math.log10(params["lr"]) > surface.diverges_above


def _truth(surface: Surface, params: Mapping[str, float]) -> float:
    return float(surface.accuracy(np.log10([[params["lr"], params["fc_norm"]]]))[0])


def _outcome(surface: Surface, params: Mapping[str, float], reported: float, error: float) -> Outcome:
    truth = _truth(surface, params)
    return Outcome(surface.best() - truth, 100 * reported - truth, 100 * error)


def main() -> None:
    """Prints one table per sampler, over all surfaces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--budget", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samplers", nargs="+", choices=("fixnorm", "random"), default=["fixnorm", "random"])
    parser.add_argument("--surfaces", nargs="+", choices=SURFACES, default=["separable", "indifferent", "two peaks"])
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with multiprocessing.get_context("fork").Pool(args.processes) as pool:
        for sampler in args.samplers:
            found = defaultdict(list)
            for surface in args.surfaces:
                one = partial(study_outcomes, sampler, surface, budget=args.budget)
                for outcomes in pool.imap(one, range(args.seeds)):
                    for scheme, outcome in outcomes.items():
                        found[scheme].append(outcome)
            studies = args.seeds * len(args.surfaces)
            print(f"\n{sampler}: {studies} studies of {args.budget} trials ({', '.join(args.surfaces)}), noise {NOISE}")
            print(f"{'k':>2}{'r':>3}  {'rule':10}{'regret ± se':>14}{'bias ± se':>15}{'within':>8}")
            for (k, r, rule), all_of_one in found.items():
                print(f"{k:2}{r:3}  {rule:10}{_row(all_of_one)}", flush=True)


def _row(outcomes: list[Outcome]) -> str:
    regret = _mean(outcome.regret for outcome in outcomes)
    bias = _mean(outcome.bias for outcome in outcomes)
    known = [abs(outcome.bias) <= outcome.error for outcome in outcomes if math.isfinite(outcome.error)]
    within = f"{np.mean(known):.2f}" if known else "-"
    return f"{regret:>14}{bias:>15}{within:>8}"


def _mean(values: Iterable[float]) -> str:
    numbers = np.array(list(values))
    return f"{numbers.mean():.2f} ± {numbers.std(ddof=1) / math.sqrt(len(numbers)):.2f}"


if __name__ == "__main__":
    main()
