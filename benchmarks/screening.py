"""How many epochs until a near-optimal point is recommended, with trials stopped early and without.

    python benchmarks/screening.py --seeds 20

Nothing is trained. Surfaces, cropped boxes and epsilon are those of benchmarks/few_trial.py; a trial's curve is the
recorded one, smoothed and interpolated at every epoch as the surface of the last one is there, plus what a recorded run
at a neighbouring point of the grid was off by, epoch for epoch. FixNormSampler proposes, blind unless told otherwise,
one trial at a time; the recommended point is the complete trial's that it expects to be best. Epochs are counted in
whole runs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, stdev

# One thread per process, before numpy reads them: the processes share the cores already
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import optuna
import pages
from few_trial.contest import START
from few_trial.keeping import read_kept, run_and_keep
from few_trial.results import RECORDED
from few_trial.surfaces import Landscape, Point, load, smoothed
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.study import Study
from optuna.trial import TrialState
from scipy.interpolate import PchipInterpolator

from fixnorm_core.tuning.pruner import CurvePruner
from fixnorm_core.tuning.sampler import FixNormSampler
from fixnorm_core.tuning.screening import ScreeningPruner
from worker.recording import Recording

Array = npt.NDArray[np.float64]

TRIALS = 40
"""Trials of a study at most, those that are stopped included."""
MOST_EPOCHS = 16.0
"""Whole runs at most; a study that is not near-optimal by then counts as if it were after one more."""

PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "none": lambda _: NopPruner(),
    "4 at 1/16": lambda epochs: ScreeningPruner(n_steps=epochs),
    "5 at 1/8": lambda epochs: ScreeningPruner(n_steps=epochs, share=1 / 8, n_screened=5),
    "6 at 1/32": lambda epochs: ScreeningPruner(n_steps=epochs, share=1 / 32, n_screened=6),
    "curve, 5 %": lambda epochs: CurvePruner(n_steps=epochs),
    "curve, 10 %": lambda epochs: CurvePruner(n_steps=epochs, chance=0.1),
    "curve, 20 %": lambda epochs: CurvePruner(n_steps=epochs, chance=0.2),
    "median": lambda epochs: MedianPruner(n_startup_trials=3, n_warmup_steps=epochs // 2),
    "halving": lambda epochs: SuccessiveHalvingPruner(min_resource=max(1, epochs // 4), reduction_factor=2),
}


@dataclass(frozen=True)
class Course:
    """A study.

    Attributes:
        pruner: What stopped its trials.
        surface: Where.
        seed: Of the sampler, the box and the curves.
        started: Whether it began at the trainer's default start.
        near: Whole runs' worth of epochs until the recommended point was near-optimal.
        stop: Until the sampler's own stop; None if that was not asked for, or did not come.
        regret: Of the recommended point at the stop, in points.
        complete: Complete trials by the stop.
    """

    pruner: str
    surface: str
    seed: int
    started: bool
    near: float
    stop: float | None
    regret: float | None
    complete: int


class Curves:
    """A recording whose curves can be asked for anywhere."""

    def __init__(self, name: str) -> None:
        recording = Recording.load(RECORDED[name])
        self.surface: Landscape = load(RECORDED[name])
        self.epochs = recording.job.training.epochs
        chance = 1.0 / recording.classes
        self._logs = [np.log(axis) for axis in self.surface.axes]
        runs: dict[tuple[float, ...], list[Array]] = {}
        for run in recording.runs:
            curve = np.full(self.epochs, chance)
            if not run.diverged:
                curve[: len(run.validation_accuracy)] = run.validation_accuracy
            runs.setdefault(tuple(run.params[knob] for knob in self.surface.knobs), []).append(curve)
        points = list(itertools.product(*self.surface.axes))
        means = np.array([np.mean(runs[point], axis=0) for point in points])
        # Deviations from a mean of n are smaller than those from the truth
        self._off = {
            point: [math.sqrt(len(own) / (len(own) - 1)) * (curve - np.mean(own, axis=0)) for curve in own]
            for point, own in runs.items()
        }
        spread = np.sqrt(np.mean([np.square(self._off[point]).mean(axis=0) for point in points], axis=0))
        nodes = [
            smoothed(np.log(np.array(points)), column, max(float(error), 0.003) / math.sqrt(2)).reshape(
                self.surface.nodes.shape
            )
            for column, error in zip(means.T[:-1], spread, strict=False)
        ]
        self._nodes = PchipInterpolator(self._logs[0], np.stack([*nodes, self.surface.nodes], axis=-1), axis=0)

    def run(self, params: Point, rng: np.random.Generator) -> Array:
        """(epochs,), the validation accuracy after each epoch of one run."""
        at = [math.log(params[knob]) for knob in self.surface.knobs]
        mean = PchipInterpolator(self._logs[1], self._nodes(at[0]), axis=0)(at[1])
        corner = []
        for axis, logs, x in zip(self.surface.axes, self._logs, at, strict=True):
            above = int(np.clip(np.searchsorted(logs, x), 1, len(logs) - 1))
            corner.append(float(axis[above - int(rng.integers(2))]))
        off = self._off[tuple(corner)]
        curve: Array = np.clip(mean + off[int(rng.integers(len(off)))], 0.0, 1.0)
        return curve


def course(task: tuple[str, str, int, bool, bool]) -> Course:
    """Runs one study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner, name, seed, started, to_stop = task
    curves = _curves(name)
    box = curves.surface.crop(np.random.default_rng((seed, 1)))
    space: dict[str, BaseDistribution] = {
        knob: FloatDistribution(box.low[knob], box.high[knob], log=True) for knob in box.low
    }
    start = {knob: min(max(value, box.low[knob]), box.high[knob]) for knob, value in START.items()}
    made = PRUNERS[pruner](curves.epochs)
    n_screened = made.n_screened if isinstance(made, ScreeningPruner) else 0
    sampler = FixNormSampler(space, seed=seed, start=start if started else None, n_screened=n_screened)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=made)
    best, spent, near, stop, regret, complete = curves.surface.best(box), 0, None, None, None, 0
    for number in range(TRIALS):
        trial = study.ask(space)
        run = curves.run(trial.params, np.random.default_rng((seed, 2, number)))
        done = _train(trial, run)
        spent += done
        finished = done == curves.epochs
        study.tell(trial, float(run[-1]) if finished else None, state=None if finished else TrialState.PRUNED)
        complete += finished
        if complete:
            lacks = best - float(curves.surface.truth([_recommended(study, sampler)])[0])
            if near is None and lacks <= curves.surface.epsilon:
                near = spent / curves.epochs
            if to_stop and stop is None and sampler.stop_reason(study):
                stop, regret = spent / curves.epochs, 100 * lacks
        if (near is not None and (stop is not None or not to_stop)) or spent >= MOST_EPOCHS * curves.epochs:
            break
    return Course(pruner, name, seed, started, near or MOST_EPOCHS + 1, stop, regret, complete)


def _train(trial: optuna.Trial, run: Array) -> int:
    for epoch, value in enumerate(run[:-1], 1):
        trial.report(float(value), step=epoch)
        if trial.should_prune():
            return epoch
    trial.report(float(run[-1]), step=len(run))
    return len(run)


def _recommended(study: Study, sampler: FixNormSampler) -> Point:
    tried = [trial.params for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    return tried[int(np.argmax(sampler.expected(study, tried)))]


@cache
def _curves(name: str) -> Curves:
    return Curves(name)


def table(courses: Sequence[Course]) -> str:
    """One row for each pruner; differences are paired by surface and seed."""
    without = {(each.surface, each.seed): each for each in courses if each.pruner == "none"}
    surfaces = sorted({each.surface for each in courses})
    rows = []
    for pruner in PRUNERS:
        own = [each for each in courses if each.pruner == pruner]
        if not own:
            continue
        centres = [fmean(each.near for each in own if each.surface == name) for name in surfaces]
        apart = [
            each.near - without[each.surface, each.seed].near for each in own if (each.surface, each.seed) in without
        ]
        ended = [each for each in own if each.stop is not None]
        rows.append(
            [
                pruner,
                str(len(own)),
                *(f"{centre:.2f}" for centre in centres),
                f"{math.exp(fmean(map(math.log, centres))):.2f}",
                _mean(apart) if any(apart) else "",
                _mean([each.stop for each in ended if each.stop is not None]) if len(ended) > 1 else "",
                _mean([each.regret for each in ended if each.regret is not None]) if len(ended) > 1 else "",
            ]
        )
    head = ["", "studies", *surfaces, "geometric mean", "against none", "epochs to the stop", "regret there"]
    return pages.table(head, rows)


def _mean(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:+.2f}"
    return f"{fmean(values):+.2f} ± {stdev(values) / math.sqrt(len(values)):.2f}"


def main() -> None:
    """Runs what is not kept and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--surfaces", nargs="+", choices=RECORDED, default=list(RECORDED))
    parser.add_argument("--pruners", nargs="+", choices=PRUNERS, default=list(PRUNERS))
    parser.add_argument("--started", action="store_true", help="begin at the trainer's default start")
    parser.add_argument("--to-stop", action="store_true", help="go on to the sampler's own stop")
    parser.add_argument("--keep", type=Path, help="a file of courses: those in it are not run again, others are added")
    arguments = parser.parse_args()
    courses = read_kept(Course, arguments.keep)
    done = {(each.pruner, each.surface, each.seed, each.started) for each in courses}
    tasks = [
        (*each, arguments.started, arguments.to_stop)
        for each in itertools.product(arguments.pruners, arguments.surfaces, range(arguments.seeds))
        if (*each, arguments.started) not in done
    ]
    courses += run_and_keep(
        course, tasks, seed=lambda task: task[2], processes=arguments.processes, file=arguments.keep
    )
    print(table([each for each in courses if each.started == arguments.started]))


if __name__ == "__main__":
    main()
