"""Replays studies over recorded learning curves, with and without a pruner, and counts epochs, regret and lost winners.

    python benchmarks/early_stopping.py --seeds 20                                # every surface of benchmarks/surfaces
    python benchmarks/early_stopping.py --seeds 20 --samplers TPE --settings      # all settings of every pruner

A study asks for ten points in turn, as a job with two confirming runs and ``max_trials: 12`` does. Its points are
those of the recorded grid (what the sampler proposes is moved to the nearest one, and the sampler is told so); its
curves are those of one of the recorded seeds, drawn by the study's seed and the trial's number, so that with and
without a pruner a trial at the same point sees the same curve. The regret is that of the complete trial with the
highest accuracy: the best mean over the recorded seeds on the whole grid, less the mean at that trial's point.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, PatientPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.tuning.attributes import CLASSES, TRAIN_LOSS
from fixnorm_core.tuning.choice import default_start
from fixnorm_core.tuning.pruner import CurvePruner
from fixnorm_core.tuning.sampler import FixNormSampler
from worker.recording import Recording, Run

TRIALS = 10
SURFACES = Path(__file__).parent / "surfaces"

Point = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Outcome:
    """One study.

    Attributes:
        epochs: Spent.
        whole: Epochs that its trials would have taken to their ends.
        regret: Of the recommended point, a fraction.
        pruned: Trials that were stopped.
        would_have_won: Those of them that would have ended above the best complete trial of that moment.
        lost_winner: Whether all trials at the best of its points, by the mean over seeds, were stopped.
    """

    epochs: int
    whole: int
    regret: float
    pruned: int
    would_have_won: int
    lost_winner: bool


class Surface:
    """A recording, by point."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.recording = Recording.load(path)
        self.epochs = self.recording.job.training.epochs
        self.runs: dict[Point, list[Run]] = {}
        for run in self.recording.runs:
            self.runs.setdefault(_key(run.params), []).append(run)
        self.truth = {point: statistics.fmean(_final(run) for run in runs) for point, runs in self.runs.items()}
        self.best = max(self.truth.values())
        self.space: dict[str, BaseDistribution] = {
            knob: FloatDistribution(limits.low, limits.high, log=True)
            for knob, limits in self.recording.job.search.space.items()
        }

    def run(self, params: dict[str, float], *, seed: int, number: int) -> Run:
        runs = self.runs[_key(params)]
        return runs[int(np.random.default_rng((seed, number)).integers(len(runs)))]

    def start(self) -> dict[str, float] | None:
        job = self.recording.job
        return default_start(job.search, training=job.training)

    def anywhere(self, seed: int) -> dict[str, float]:
        """A first point that knows nothing: uniform in the logarithms of the grid."""
        rng = np.random.default_rng((seed, 1))
        return {
            knob: math.exp(rng.uniform(math.log(values[0]), math.log(values[-1])))
            for knob, values in self.recording.grid.items()
        }


class OnGrid(BaseSampler):
    """Another sampler, its proposals moved to the nearest recorded values."""

    def __init__(self, inner: BaseSampler, grid: dict[str, tuple[float, ...]]) -> None:
        self._inner, self._grid = inner, grid

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        proposed = self._inner.sample_relative(study, trial, search_space)
        return {name: self._nearest(name, value) for name, value in proposed.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        value = self._inner.sample_independent(study, trial, param_name, param_distribution)
        return self._nearest(param_name, value)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)

    def _nearest(self, name: str, value: float) -> float:
        return min(self._grid[name], key=lambda recorded: abs(math.log(recorded / value)))


SAMPLERS: dict[str, Callable[[Surface, int], BaseSampler]] = {
    "FixNorm": lambda surface, seed: FixNormSampler(surface.space, seed=seed, start=surface.start()),
    "FixNorm-anywhere": lambda surface, seed: FixNormSampler(surface.space, seed=seed, start=surface.anywhere(seed)),
    "TPE": lambda _, seed: TPESampler(seed=seed, n_startup_trials=4),
}

# By name: what is made for trials of so many epochs.
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "none": lambda _: NopPruner(),
    "curve, 5 %": lambda epochs: CurvePruner(n_steps=epochs),
    "curve, 10 %": lambda epochs: CurvePruner(n_steps=epochs, chance=0.1),
    "median": lambda epochs: MedianPruner(n_startup_trials=3, n_warmup_steps=epochs // 2),
    "halving": lambda epochs: SuccessiveHalvingPruner(min_resource=max(1, epochs // 4), reduction_factor=2),
    "hyperband": lambda epochs: HyperbandPruner(min_resource=max(1, epochs // 4), max_resource=epochs),
}
SETTINGS: dict[str, Callable[[int], BasePruner]] = {
    "curve, 2 %": lambda epochs: CurvePruner(n_steps=epochs, chance=0.02),
    "curve, 20 %": lambda epochs: CurvePruner(n_steps=epochs, chance=0.2),
    "curve, 30 %": lambda epochs: CurvePruner(n_steps=epochs, chance=0.3),
    "median at once": lambda _: MedianPruner(n_startup_trials=3),
    "median from 30 %": lambda epochs: MedianPruner(n_startup_trials=3, n_warmup_steps=round(0.3 * epochs)),
    "median from 80 %": lambda epochs: MedianPruner(n_startup_trials=3, n_warmup_steps=round(0.8 * epochs)),
    "median, patient": lambda epochs: PatientPruner(MedianPruner(n_startup_trials=3), patience=max(1, epochs // 10)),
    "halving from 1, by 2": lambda _: SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    "halving from 1, by 4": lambda _: SuccessiveHalvingPruner(min_resource=1, reduction_factor=4),
    "halving from half, by 2": lambda epochs: SuccessiveHalvingPruner(min_resource=epochs // 2, reduction_factor=2),
    "hyperband from 1": lambda epochs: HyperbandPruner(min_resource=1, max_resource=epochs),
    "hyperband, by 2": lambda epochs: HyperbandPruner(1, epochs, reduction_factor=2),
}


def main() -> None:
    """Prints a table for every sampler: a row for each surface and pruner, and one over all surfaces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--surfaces", nargs="*", help="names; all that are recorded if none is given")
    parser.add_argument("--samplers", nargs="*", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--folder", type=Path, default=SURFACES)
    parser.add_argument("--settings", action="store_true", help="all settings of every pruner")
    parser.add_argument("--pruners", nargs="*", help="these alone, by the names in the table")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    names = arguments.surfaces or sorted(path.stem for path in arguments.folder.glob("*.json"))
    surfaces = [Surface(arguments.folder / f"{name}.json") for name in names]
    pruners = PRUNERS | (SETTINGS if arguments.settings else {})
    if arguments.pruners:
        pruners = {name: (PRUNERS | SETTINGS)[name] for name in arguments.pruners}
    for sampler in arguments.samplers:
        print(f"\n{sampler}, {arguments.seeds} studies a row of {TRIALS} trials\n\n{_HEAD}")
        totals: dict[str, list[tuple[Outcome, Outcome]]] = {name: [] for name in pruners}
        for surface in surfaces:
            without = [replay(surface, sampler, NopPruner(), seed=seed) for seed in range(arguments.seeds)]
            for name, make in pruners.items():
                studies = without
                if name != "none":
                    seeds = range(arguments.seeds)
                    studies = [replay(surface, sampler, make(surface.epochs), seed=seed) for seed in seeds]
                totals[name] += zip(studies, without, strict=True)
                print(_row(surface.name, name, zip(studies, without, strict=True)), flush=True)
        for name, pairs in totals.items():
            print(_row("all", name, pairs), flush=True)


def replay(surface: Surface, sampler: str, pruner: BasePruner, *, seed: int) -> Outcome:
    """One study."""
    study = optuna.create_study(
        direction="maximize",
        sampler=OnGrid(SAMPLERS[sampler](surface, seed), surface.recording.grid),
        pruner=pruner,
        study_name=f"{surface.name}-{seed}",  # Hyperband draws brackets by it
    )
    epochs = whole = won = 0
    for number in range(TRIALS):
        trial = study.ask(surface.space)
        run = surface.run(trial.params, seed=seed, number=number)
        whole += len(run.validation_accuracy)
        trial.set_user_attr(CLASSES, surface.recording.classes)
        done = _train(trial, run)
        epochs += done
        best = max((each.value for each in _complete(study)), default=-math.inf)
        if done < len(run.validation_accuracy):
            won += _final(run) > best
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, _final(run))
    complete = _complete(study)
    recommended = max(complete, key=lambda each: each.value)
    points = {_key(each.params) for each in study.trials}
    winner = max(points, key=lambda point: surface.truth[point])
    return Outcome(
        epochs=epochs,
        whole=whole,
        regret=surface.best - surface.truth[_key(recommended.params)],
        pruned=TRIALS - len(complete),
        would_have_won=won,
        lost_winner=all(_key(each.params) != winner for each in complete),
    )


def _train(trial: optuna.Trial, run: Run) -> int:
    """Reports a curve until its end, or until it is stopped; returns the epochs."""
    total = len(run.validation_accuracy)
    for epoch in range(1, total + 1):
        trial.report(run.validation_accuracy[epoch - 1], step=epoch)
        trial.set_user_attr(TRAIN_LOSS, list(run.train_loss[:epoch]))
        if epoch < total and trial.should_prune():
            return epoch
    return total


_HEAD = (
    "| surface | pruner | epochs | saved | regret, points | against none | pruned | would have won | winner lost |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def _row(surface: str, pruner: str, pairs: Iterable[tuple[Outcome, Outcome]]) -> str:
    studies, without = zip(*pairs, strict=True)
    spent, full = sum(study.epochs for study in studies), sum(study.epochs for study in without)
    differences = [100 * (study.regret - other.regret) for study, other in zip(studies, without, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    pruned, won = sum(study.pruned for study in studies), sum(study.would_have_won for study in studies)
    cells = (
        surface,
        pruner,
        f"{spent / len(studies):.0f}",
        f"{100 * (1 - spent / full):.0f} %",
        f"{100 * statistics.fmean(study.regret for study in studies):.2f}",
        f"{statistics.fmean(differences):+.2f} ± {error:.2f}",
        f"{pruned / len(studies):.1f}",
        f"{won} of {pruned}",
        f"{sum(study.lost_winner for study in studies)} of {len(studies)}",
    )
    return f"| {' | '.join(cells)} |"


def _complete(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _final(run: Run) -> float:
    return run.validation_accuracy[-1]


def _key(params: dict[str, float]) -> Point:
    return tuple(sorted(params.items()))


if __name__ == "__main__":
    main()
