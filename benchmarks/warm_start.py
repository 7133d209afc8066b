"""What a warm start saves, and what a misleading one costs: studies on recorded surfaces, hinted rightly and wrongly.

    python benchmarks/warm_start.py --seeds 30

Nothing is trained, as in benchmarks/few_trial.py, whose surfaces, noise and cropped boxes these are. Every study is run
to its end of 12 trials; the tables give the mean over seeds, and over surfaces with the same weight each. A parent is a
study on another surface that began blind and ended by its own stop; a misleading one is such a parent with one knob set
to where the peak is not. ``default start`` is where the trainer begins without any parent.
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
import optuna
from few_trial.contest import START
from few_trial.keeping import read_kept, run_and_keep
from few_trial.results import RECORDED
from few_trial.surfaces import Box, Landscape, Point, load
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import Study

from fixnorm_core.tuning.hints import Hint
from fixnorm_core.tuning.sampler import FixNormSampler
from fixnorm_core.tuning.warm_start import peak_spread

TRIALS = 12
PARENT_TRIALS = 10
SURFACES = list(RECORDED)


@dataclass(frozen=True)
class Course:
    """A study; regrets in points of accuracy. ``near`` and ``stop`` are one more than all trials if it never was."""

    way: str
    surface: str
    seed: int
    first: float
    near: int
    stop: int
    regret_at_stop: float


@cache
def parent(name: str, seed: int) -> Hint:
    """What a finished study on a surface hands on."""
    surface = _landscape(name)
    box = surface.crop(np.random.default_rng((seed, 3)))
    space = _space(box)
    study = optuna.create_study(direction="maximize", sampler=FixNormSampler(space, seed=seed + 1000))
    noise = surface.noise * np.random.default_rng((seed, 4)).standard_normal(PARENT_TRIALS)
    for each in noise:
        _train(study, space, surface, float(each))
        if _stops(study):
            break
    best = _recommended(study)
    return Hint.elsewhere(best, peak_spread(study.trials, space, best))


def _another(surface: str, seed: int, step: int = 1) -> Hint:
    others = [name for name in SURFACES if name != surface]
    return parent(others[(seed + step) % len(others)], seed + 97 * step)


def _misled(knob: str, factor: float) -> Callable[[str, int], Hint]:
    """A parent whose best point is off by a factor in one knob, from where the new surface has its peak."""

    def mislead(surface: str, seed: int) -> Hint:
        honest = _another(surface, seed)
        wrong = {knob: _landscape(surface).peak()[knob] * factor}
        return Hint({**honest.params, **wrong}, honest.spread)

    return mislead


DEFAULT = Hint(START)
"""With a parent the trainer's default start is a second hint."""

MISLEADING = {
    f"misled: {knob} {times} times too {word}": _misled(knob, times if word == "high" else 1 / times)
    for knob, times in (("lr", 30), ("fc_norm", 8))
    for word in ("high", "low")
}


def _with_default(mislead: Callable[[str, int], Hint]) -> Callable[[str, int], Sequence[Hint]]:
    return lambda surface, seed: (mislead(surface, seed), DEFAULT)


def _alone(mislead: Callable[[str, int], Hint]) -> Callable[[str, int], Sequence[Hint]]:
    return lambda surface, seed: (mislead(surface, seed),)


WAYS: dict[str, Callable[[str, int], Sequence[Hint]]] = {
    "blind": lambda _surface, _seed: (),
    "default start": lambda _surface, _seed: (DEFAULT,),
    "a parent": _with_default(_another),
    "three parents": lambda surface, seed: (*(_another(surface, seed, step) for step in (1, 2, 3)), DEFAULT),
    **{name: _with_default(mislead) for name, mislead in MISLEADING.items()},
    "a parent, no default": _alone(_another),
    **{f"{name}, no default": _alone(mislead) for name, mislead in MISLEADING.items()},
}


def course(task: tuple[str, str, int]) -> Course:
    """Runs one study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    way, name, seed = task
    surface = _landscape(name)
    box = surface.crop(np.random.default_rng((seed, 1)))
    space = _space(box)
    sampler = FixNormSampler(space, seed=seed, hints=WAYS[way](name, seed))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    best, tried, regrets, stop = surface.best(box), [], [], None
    for each in surface.noise * np.random.default_rng((seed, 2)).standard_normal(TRIALS):
        tried.append(_train(study, space, surface, float(each)))
        regrets.append(100 * (best - tried[_recommended_number(study)]))
        if stop is None and _stops(study):
            stop = len(tried)
        if stop is not None and min(regrets) <= 100 * surface.epsilon:
            break
    near = next((n for n, regret in enumerate(regrets, 1) if regret <= 100 * surface.epsilon), TRIALS + 1)
    return Course(way, name, seed, 100 * (best - tried[0]), near, stop or TRIALS + 1, regrets[(stop or TRIALS) - 1])


def _train(study: Study, space: dict[str, BaseDistribution], surface: Landscape, noise: float) -> float:
    trial = study.ask(space)
    value = float(surface.truth([trial.params])[0])
    study.tell(trial, value + noise)
    return value


def _stops(study: Study) -> bool:
    assert isinstance(study.sampler, FixNormSampler)
    return study.sampler.stop_reason(study) is not None


def _recommended_number(study: Study) -> int:
    assert isinstance(study.sampler, FixNormSampler)
    return int(np.argmax(study.sampler.expected(study, [trial.params for trial in study.trials])))


def _recommended(study: Study) -> Point:
    return dict(study.trials[_recommended_number(study)].params)


def _space(box: Box) -> dict[str, BaseDistribution]:
    return {knob: FloatDistribution(box.low[knob], box.high[knob], log=True) for knob in box.low}


@cache
def _landscape(name: str) -> Landscape:
    return load(RECORDED[name])


def table(courses: Sequence[Course]) -> str:
    """One row for each way. Differences are paired by surface and seed; the last two columns are at the own stop."""
    of = {way: {(each.surface, each.seed): each for each in courses if each.way == way} for way in WAYS}
    lines = [
        "| | studies | first trial lacks | trials to near-optimal | against blind | against the default start "
        "| over two more | trials at the stop | regret there |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for way, own in of.items():
        if own:
            without = of["blind" if way.endswith("no default") else "default start"]
            cells = [
                str(len(own)),
                f"{fmean(each.first for each in own.values()):.1f}",
                f"{fmean(each.near for each in own.values()):.2f}",
                _difference(own, of["blind"]),
                _difference(own, of["default start"]),
                _over_two(own, without) if way not in ("blind", "default start") else "",
                f"{fmean(each.stop for each in own.values()):.1f}",
                f"{fmean(each.regret_at_stop for each in own.values()):.2f}",
            ]
            lines.append("| " + " | ".join([way, *cells]) + " |")
    return "\n".join(lines)


def surface_table(courses: Sequence[Course]) -> str:
    """Mean trials to near-optimal, one column for each surface."""
    surfaces = list(dict.fromkeys(each.surface for each in sorted(courses, key=lambda each: each.surface)))
    lines = ["| | " + " | ".join(surfaces) + " |", "|---" * (len(surfaces) + 1) + "|"]
    for way in WAYS:
        near = [[each.near for each in courses if (each.way, each.surface) == (way, name)] for name in surfaces]
        if all(near):
            lines.append("| " + " | ".join([way, *(f"{fmean(each):.1f}" for each in near)]) + " |")
    return "\n".join(lines)


def _difference(own: dict[tuple[str, int], Course], other: dict[tuple[str, int], Course]) -> str:
    apart = [own[key].near - other[key].near for key in own.keys() & other.keys()]
    if len(apart) < 2 or not any(apart):
        return ""
    return f"{fmean(apart):+.2f} ± {stdev(apart) / math.sqrt(len(apart)):.2f}"


def _over_two(own: dict[tuple[str, int], Course], other: dict[tuple[str, int], Course]) -> str:
    apart = [own[key].near - other[key].near > 2 for key in own.keys() & other.keys()]
    return f"{100 * fmean(apart):.0f} %" if apart else ""


def main() -> None:
    """Runs all studies and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--surfaces", nargs="+", choices=SURFACES, default=SURFACES)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--keep", type=Path, help="a file of courses: those in it are not run again, others are added")
    arguments = parser.parse_args()
    courses = read_kept(Course, arguments.keep)
    done = {(each.way, each.surface, each.seed) for each in courses}
    tasks = [
        task
        for task in itertools.product(arguments.ways, arguments.surfaces, range(arguments.seeds))
        if task not in done
    ]
    courses += run_and_keep(
        course, tasks, seed=lambda task: task[2], processes=arguments.processes, file=arguments.keep
    )
    wanted = set(arguments.ways), set(arguments.surfaces), set(range(arguments.seeds))
    shown = [each for each in courses if all(map(set.__contains__, wanted, (each.way, each.surface, each.seed)))]
    print(f"{table(shown)}\n\n{surface_table(shown)}")


if __name__ == "__main__":
    main()
