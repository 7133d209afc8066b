"""The tables of the results page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from pages import mean_and_error, table

from few_trial.contest import START, Course
from few_trial.made_up import MADE_UP
from few_trial.results import RECORDED, read
from few_trial.rivals import RIVALS
from few_trial.surfaces import load

__all__ = ["TABLES"]

_AFTER = (3, 5, 8, 12, 16)
# Only so many seeds were run for 24 trials by every sampler that is compared there.
_LONG, _LONG_SEEDS = (5, 8, 12, 16, 24), 20


def surfaces(_courses: Sequence[Course]) -> str:
    """What was recorded, where its peak is, and what the default start lacks of it."""
    rows = []
    for name, path in RECORDED.items():
        surface = load(path)
        peak, best = surface.peak(), surface.truth([surface.peak()])[0]
        lacks = f"{100 * (best - surface.truth([START])[0]):.1f}"
        first, second = (f"{peak[knob]:.2g}" for knob in surface.knobs)
        rows.append(
            [
                name,
                f"{100 * best:.1f}",
                f"{100 * surface.noise:.1f}",
                f"{100 * surface.epsilon:.1f}",
                first,
                second,
                lacks,
            ]
        )
    return table(["surface", "best %", "noise", "ε", "best lr", "best fc_norm", "default start lacks"], rows)


def trials(courses: Sequence[Course]) -> str:
    """Trials until the recommended point is within epsilon, by sampler and surface."""
    return _by_surface(
        [course for course in courses if course.slots == 1], _recorded(courses), lambda course: course.trials
    )


def rounds(courses: Sequence[Course]) -> str:
    """Rounds of four trials until the recommended point is within epsilon."""
    four = [course for course in courses if course.slots == 4]
    return _by_surface(four, _recorded(four), lambda course: math.ceil(course.trials / 4))


def wrong_shapes(courses: Sequence[Course]) -> str:
    """Trials on surfaces that are shaped unlike what FixNormSampler expects."""
    made_up = [course for course in courses if course.slots == 1 and course.surface in MADE_UP]
    return _by_surface(made_up, MADE_UP, lambda course: course.trials)


def regrets(courses: Sequence[Course]) -> str:
    """What the recommended point lacks of the best after some trials, mean over the surfaces, in points."""
    names = _recorded(courses)
    rows = []
    for rival in RIVALS:
        own = [course for course in courses if course.rival == rival and course.slots == 1 and course.surface in names]
        if own:
            rows.append([rival, *(f"{fmean(course.regrets[n - 1] for course in own):.2f}" for n in _AFTER)])
    return table(["sampler", *(f"after {n}" for n in _AFTER)], rows)


def long_regrets(_courses: Sequence[Course]) -> str:
    """The same up to 24 trials, over the seeds that were run for so long on every surface."""
    courses = [course for course in read(trials=_LONG[-1]) if course.slots == 1 and course.seed < _LONG_SEEDS]
    rows = []
    for rival in RIVALS:
        own = [course for course in courses if course.rival == rival and course.surface in RECORDED]
        if len(own) == _LONG_SEEDS * len(RECORDED):
            rows.append([rival, *(f"{fmean(course.regrets[n - 1] for course in own):.2f}" for n in _LONG)])
    return table(["sampler", *(f"after {n}" for n in _LONG)], rows)


def stops(courses: Sequence[Course]) -> str:
    """The first trial, and the sampler's own stop: after how many trials, and what it then lacks, in points."""
    rows = []
    for rival in ("FixNorm", "FixNorm, default start"):
        for name in _recorded(courses):
            own = [course for course in courses if course.key[:2] == (rival, name) and course.slots == 1]
            ended = [course for course in own if course.stopped]
            if not ended:
                continue
            rows.append(
                [
                    rival,
                    name,
                    mean_and_error([course.first for course in own]),
                    mean_and_error([float(course.stopped or 0) for course in ended]),
                    f"{len(ended)} of {len(own)}",
                    mean_and_error([course.regrets[(course.stopped or 1) - 1] for course in ended]),
                    f"{own[0].epsilon:.1f}",
                ]
            )
    return table(["sampler", "surface", "first trial lacks", "stop after", "stopped", "lacks then", "ε"], rows)


TABLES: dict[str, Callable[[Sequence[Course]], str]] = {
    "surfaces": surfaces,
    "trials": trials,
    "regrets": regrets,
    "long regrets": long_regrets,
    "stops": stops,
    "rounds": rounds,
    "wrong shapes": wrong_shapes,
}


def _by_surface(courses: Sequence[Course], names: Sequence[str], measure: Callable[[Course], int]) -> str:
    rows = []
    means: dict[str, float] = {}
    for rival in RIVALS:
        cells, centres = [], []
        for name in names:
            values = [
                float(measure(course))
                for course in courses
                if course.rival == rival and course.surface.removesuffix("-decay") == name
            ]
            cells.append(mean_and_error(values) if values else "")
            centres += [fmean(values)] if values else []
        if centres and len(centres) == len(names):
            means[rival] = math.exp(fmean(map(math.log, centres)))
            rows.append([rival, *cells, f"{means[rival]:.2f}", f"{means[rival] / means.get('FixNorm', math.nan):.2f}"])
        elif centres:
            rows.append([rival, *cells, "", ""])
    return table(["sampler", *names, "geometric mean", "to FixNorm"], rows)


def _recorded(courses: Sequence[Course]) -> list[str]:
    seen = {course.surface for course in courses}
    return [name for name in RECORDED if name in seen]
