"""The studies: which runs each question needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

from accuracy.runs import Outcome, Run, by_point
from accuracy.ways import Way

__all__ = ["CHOOSING_SEEDS", "STUDIES", "fresh", "groups"]

CHOOSING_SEEDS = (0, 1)
"""Seeds whose validation accuracy chooses the best point; what is reported comes from others."""

DECAY_RATES = (0.03, 0.06, 0.125, 0.25, 0.5, 1.0)
FIXED_RATES = tuple(0.002 * 2**power for power in range(6))
BOUNDS = (0.5, 1.0, 2.0, 4.0, None)
# Learning rates about the same effective rate: the squared norms at initialisation are about 32 times those at one,
# and 16 times where they are the number of filters
RATES_BY_NORM = {
    "one": tuple(0.001 * 2**power for power in range(7)),
    "init": tuple(0.032 * 2**power for power in range(6)),
    "filters": tuple(0.016 * 2**power for power in range(6)),
}
TRANSFER = ("base", "width", "depth", "batch", "digits", "full-size")


def methods() -> list[Run]:
    """FixNorm against weight decay on everything, on parts, and on nothing, each over its own grid."""
    fixed = [Way(lr, fc_norm=bound) for lr, bound in itertools.product(FIXED_RATES, BOUNDS)]
    decayed = [
        Way(lr, weight_decay=decay, hold="no")
        for lr, decay in itertools.product(DECAY_RATES, (0.0, 1e-3, 3e-3, 1e-2, 3e-2))
    ]
    parts = [
        Way(lr, weight_decay=decay, hold="no", decayed=part)
        for part, lr, decay in itertools.product(
            ("scale_invariant", "head"), (0.06, 0.125, 0.25, 0.5), (3e-3, 1e-2, 3e-2, 1e-1)
        )
    ]
    bent = [
        Way(lr, fc_norm=bound, head_lr=8.0, free_lr=8.0, power=0.5)
        for lr, bound in itertools.product((0.004, 0.008, 0.016, 0.032), (1.0, 2.0, 4.0, None))
    ]
    # Of the over-fitting task the best points lay at the border of these grids
    wider = [
        *(Way(lr, fc_norm=bound) for lr, bound in itertools.product((0.128, 0.256), (0.5, 1.0, 2.0))),
        *(
            Way(lr, fc_norm=bound, head_lr=8.0, free_lr=8.0, power=0.5)
            for lr, bound in itertools.product((0.016, 0.032, 0.064, 0.128), (0.25, 0.5, 1.0))
        ),
    ]
    regimes = [Run("over", way, seed=0) for way in wider]
    regimes += [Run(task, way, seed=0) for task in ("over", "under") for way in (*fixed, *bent, *decayed, *parts)]
    return regimes + [Run("middle", way, seed=0) for way in (*fixed, *bent, *decayed)]


def norms() -> list[Run]:
    """Which norm to hold weights at, and how far the best learning rate moves between tasks."""
    return [
        Run(task, Way(lr, fc_norm=2.0, hold=hold), seed=0)
        for task in TRANSFER
        for hold, rates in RATES_BY_NORM.items()
        for lr in rates
    ]


def head() -> list[Run]:
    """The learning rate of the head, or of all that is not held, against the bound on the head."""
    factors = ((1.0, 1.0), (8.0, 1.0), (8.0, 8.0), (32.0, 1.0), (32.0, 32.0))
    return [
        Run(task, Way(lr, fc_norm=bound, head_lr=head_lr, free_lr=free_lr), seed=0)
        for task in ("under", "middle", "over")
        for lr in (0.016, 0.032)
        for head_lr, free_lr in factors
        for bound in (1.0, 2.0, 4.0, None)
    ]


def schedule() -> list[Run]:
    """Whether what is held should turn as cosine lets it, or as under weight decay; and the rate of the rest again."""
    return [
        Run(task, Way(lr, fc_norm=2.0, head_lr=factor, free_lr=factor, power=power), seed=seed)
        for seed in range(3)
        for task in ("under", "middle", "over")
        for lr in (0.008, 0.016, 0.032)
        for factor in (1.0, 8.0)
        for power in (1.0, 0.5)
    ]


def choices() -> list[Run]:
    """Norms by filter, momentum without its radial part, and gains bounded too."""
    ways = [
        Way(lr, fc_norm=bound, **choice)
        for lr in (0.008, 0.016)
        for bound in (1.0,)
        for choice in ({}, {"granularity": "filter"}, {"momentum_radial": "remove"}, {"bound_gain": True})
    ]
    return [Run(task, way, seed=seed) for seed in (0, 1) for task in ("over", "under") for way in ways]


def gates() -> list[Run]:
    """Squeeze-and-excitation: its weights free, or bounded as the head is."""
    return [
        Run("gates", Way(lr, fc_norm=bound, bound_gates=gates), seed=seed)
        for seed in (0, 1)
        for lr in (0.008, 0.016)
        for bound in (1.0, 2.0)
        for gates in (False, True)
    ]


def large() -> list[Run]:
    """A larger network on larger images: FixNorm, norms at initialisation, weight decay."""
    fixed = [Way(lr, fc_norm=bound) for lr in (0.004, 0.008, 0.016) for bound in (2.0, None)]
    kept = [Way(lr, fc_norm=2.0, hold="init") for lr in (0.125, 0.25, 0.5, 1.0)]
    decayed = [
        Way(lr, weight_decay=decay, hold="no")
        for lr, decay in itertools.product((0.06, 0.125, 0.25, 0.5), (1e-3, 3e-3, 1e-2))
    ]
    return [Run("large", way, seed=0) for way in (*fixed, *decayed, *kept)]


def traces() -> list[Run]:
    """The norms of all held weights over time, for each way to set them."""
    ways = (
        Way(0.008, fc_norm=2.0),
        Way(0.25, fc_norm=2.0, hold="init"),
        Way(0.128, fc_norm=2.0, hold="filters"),
        Way(0.125, weight_decay=1e-2, hold="no"),
        Way(0.125, hold="no"),
    )
    return [Run("over", way, seed=0, traced=True) for way in ways]


STUDIES: dict[str, Callable[[], list[Run]]] = {
    "methods": methods,
    "norms": norms,
    "head": head,
    "schedule": schedule,
    "choices": choices,
    "gates": gates,
    "large": large,
    "traces": traces,
}


def groups(study: str, run: Run) -> tuple[str, ...]:
    """What a study compares: runs of one group differ in their knobs alone, and the group's best is what counts."""
    way = run.way
    if study == "head":
        return run.task, f"head {way.head_lr:g}x", f"free {way.free_lr:g}x"
    if study == "schedule":
        return run.task, f"rest x {way.head_lr:g}", f"power {way.power:g}"
    if study == "choices":
        extras = [way.granularity, way.momentum_radial, "gain bounded" if way.bound_gain else ""]
        return run.task, *extras
    if way.hold != "no":
        bent = ", rest x 8, power 0.5" if way.power != 1.0 else ""
        return run.task, f"FixNorm, {way.hold}" if study != "methods" else f"FixNorm{bent}"
    return run.task, f"weight decay on {way.decayed}" if way.weight_decay else "no weight decay"


def fresh(study: str, outcomes: Sequence[Outcome], *, seeds: int, first: int, top: int) -> list[Run]:
    """The ``top`` points of every group by mean validation accuracy, with ``seeds`` seeds from ``first`` on."""
    grouped: dict[tuple[str, ...], list[tuple[float, Run]]] = {}
    for _, same in by_point(outcomes):
        run = same[0].run
        grouped.setdefault(groups(study, run), []).append((mean(one.validation for one in same), run))
    best = [
        run for points in grouped.values() for _, run in sorted(points, key=lambda point: point[0], reverse=True)[:top]
    ]
    return [replace(run, seed=seed) for run in best for seed in range(first, first + seeds)]
