"""From outcomes to tables: which point of each group was best, and what it gives with seeds that did not choose it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import mean, median, stdev, variance

from pages import table

from accuracy.best import MOMENTUM, Best, best_points, between, by_rate, gradient_norm, peak
from accuracy.runs import Outcome, Run
from accuracy.tasks import TASKS
from accuracy.ways import Way
from fixnorm_core.method.equilibrium import START_FC_NORM, equivalent_start

__all__ = ["TABLES"]


def methods(outcomes: Sequence[Outcome]) -> str:
    """What each way to train reaches at its own best point."""
    best = best_points("methods", outcomes)
    rows = []
    for task in dict.fromkeys(group[0] for group in best):
        of_task = {group[1]: point for group, point in best.items() if group[0] == task}
        reference = of_task.get("weight decay on all")
        for name, point in sorted(of_task.items(), key=lambda item: -mean(item[1].test or (item[1].chosen_by,))):
            gain = ""
            if reference is not None and point is not reference and point.test and reference.test:
                difference = mean(point.test) - mean(reference.test)
                gain = f"{100 * difference:+.1f} ± {100 * math.hypot(point.error, reference.error):.1f}"
            rows.append(
                (TASKS[task].about, name, _knobs(point.way), _accuracy(point), f"{100 * point.train:.1f}", gain)
            )
    return table(("task", "way", "best knobs", "test accuracy, %", "training, %", "against weight decay on all"), rows)


def surface(task: str, *, fixed: bool) -> Callable[[Sequence[Outcome]], str]:
    """Validation accuracy over both knobs, of the first seed."""

    def draw(outcomes: Sequence[Outcome]) -> str:
        chosen = [
            one
            for one in outcomes
            if one.run.task == task
            and one.run.seed == 0
            and (one.run.way.hold != "no") == fixed
            and one.run.way.decayed == "all"
            and one.run.way.power == 1.0
        ]
        second = (lambda way: way.fc_norm) if fixed else (lambda way: way.weight_decay)
        columns = sorted({second(one.run.way) for one in chosen}, key=lambda value: (value is None, value))
        cells = {(one.run.way.lr, second(one.run.way)): one for one in chosen}
        rows = [
            (f"{lr:g}", *(_cell(cells.get((lr, column))) for column in columns))
            for lr in sorted({one.run.way.lr for one in chosen})
        ]
        name = "fc_norm" if fixed else "weight decay"
        return table((f"lr \\ {name}", *("none" if one is None else f"{one:g}" for one in columns)), rows)

    return draw


def norms(outcomes: Sequence[Outcome]) -> str:
    """By task and held norm: where accuracy peaks, and what it is there and one step of two to either side."""
    rows = []
    for task in dict.fromkeys(one.run.task for one in outcomes):
        for hold in ("one", "init", "filters"):
            points = by_rate([one for one in outcomes if one.run.task == task and one.run.way.hold == hold])
            if not points:
                continue
            rates = sorted(points)
            place = max(range(len(rates)), key=lambda index: points[rates[index]])
            sides = [
                f"{100 * points[rates[i]]:.1f}" if 0 <= i < len(rates) else "-" for i in range(place - 1, place + 2)
            ]
            turn = f"{_early_rotation(outcomes, task=task, hold=hold, lr=rates[place]):.3f}"
            rows.append((TASKS[task].about, hold, f"{peak(points):.3g}", " / ".join(sides), turn))
    return table(("task", "held at", "peak of lr", "below / best / above, %", "rotation, rad a step"), rows)


def transfer(outcomes: Sequence[Outcome]) -> str:
    """By held norm: what one learning rate for all tasks loses against each task's own best rate."""
    rows = []
    for hold in ("one", "init", "filters"):
        by_task = {
            task: points
            for task in dict.fromkeys(one.run.task for one in outcomes)
            if (points := by_rate([one for one in outcomes if (one.run.task, one.run.way.hold) == (task, hold)]))
        }
        rates = sorted(set.intersection(*(set(points) for points in by_task.values())))
        losses = {rate: {t: 100 * (max(p.values()) - p[rate]) for t, p in by_task.items()} for rate in rates}
        common = min(rates, key=lambda rate: mean(losses[rate].values()))
        spread = stdev(math.log2(peak(points)) for points in by_task.values())
        best = mean(max(points.values()) for points in by_task.values())
        rows.append(
            (
                hold,
                f"{len(by_task)}",
                f"{100 * best:.1f}",
                f"{common:g}",
                f"{mean(losses[common].values()):.1f}",
                f"{max(losses[common].values()):.1f} ({max(losses[common], key=lambda task: losses[common][task])})",
                f"{spread:.1f}",
            )
        )
    titles = ("held at", "tasks", "mean of the bests, %", "best common lr", "it loses, points", "at most")
    return table((*titles, "spread of the peaks, octaves"), rows)


def head(outcomes: Sequence[Outcome]) -> str:
    """By task, rate and factors: validation accuracy over the bounds, and the norm that a free head reaches."""
    bounds = sorted({one.run.way.fc_norm for one in outcomes}, key=lambda value: (value is None, value))
    rows = []
    for task, lr, head_lr, free_lr in dict.fromkeys(_factors(one.run) for one in outcomes):
        cells = []
        for bound in bounds:
            same = [
                o for o in outcomes if _factors(o.run) == (task, lr, head_lr, free_lr) and o.run.way.fc_norm == bound
            ]
            cells.append(f"{100 * mean(one.validation for one in same):.1f}" if same else "")
        free = [o for o in outcomes if _factors(o.run) == (task, lr, head_lr, free_lr) and o.run.way.fc_norm is None]
        norm = f"{mean(one.trace[-1]['head_norm'] for one in free):.1f}" if free else ""
        rows.append((task, f"{lr:g}", f"x {head_lr:g}", f"x {free_lr:g}", *cells, norm))
    names = ("none" if bound is None else f"{bound:g}" for bound in bounds)
    return table(("task", "lr", "head's lr", "lr of the free", *names, "norm without a bound"), rows)


def _factors(run: Run) -> tuple[str, float, float, float]:
    return run.task, run.way.lr, run.way.head_lr, run.way.free_lr


def schedule(outcomes: Sequence[Outcome]) -> str:
    """By task, power and factor: mean test accuracy at each rate."""
    rates = sorted({one.run.way.lr for one in outcomes})
    rows = []
    for task in dict.fromkeys(one.run.task for one in outcomes):
        for factor, power in dict.fromkeys((one.run.way.head_lr, one.run.way.power) for one in outcomes):
            same = [o for o in outcomes if (o.run.task, o.run.way.head_lr, o.run.way.power) == (task, factor, power)]
            cells = [[one.test for one in same if one.run.way.lr == rate] for rate in rates]
            error = math.sqrt(mean(variance(cell) / len(cell) for cell in cells if len(cell) > 1) / len(cells))
            total = f"{100 * mean(mean(cell) for cell in cells):.2f} ± {100 * error:.2f}"
            rows.append((task, f"x {factor:g}", f"{power:g}", *(f"{100 * mean(cell):.1f}" for cell in cells), total))
    return table(("task", "lr of the rest", "power", *(f"lr {rate:g}" for rate in rates), "mean over rates"), rows)


def choices(outcomes: Sequence[Outcome]) -> str:
    """By choice: test accuracy against the default at the same knobs and seeds."""
    reference = {
        (one.run.task, one.run.way.lr, one.run.way.fc_norm, one.run.seed): one.test
        for one in outcomes
        if one.run.way == Way(one.run.way.lr, fc_norm=one.run.way.fc_norm)
    }
    gains: dict[tuple[str, str], list[float]] = {}
    for one in outcomes:
        name = _choice(one.run)
        same = reference.get((one.run.task, one.run.way.lr, one.run.way.fc_norm, one.run.seed))
        if name and same is not None:
            gains.setdefault((one.run.task, name), []).append(one.test - same)
    rows = [
        (TASKS[task].about, name, f"{100 * mean(values):+.2f} ± {100 * stdev(values) / math.sqrt(len(values)):.2f}")
        for (task, name), values in gains.items()
    ]
    return table(("task", "choice", "test accuracy against the default, points"), rows)


def large(outcomes: Sequence[Outcome]) -> str:
    """What each way reaches on the larger task."""
    best = best_points("large", outcomes)
    rows = [
        (group[1], _knobs(point.way), _accuracy(point), f"{100 * point.train:.1f}")
        for group, point in sorted(best.items(), key=lambda item: -mean(item[1].test or (item[1].chosen_by,)))
    ]
    return table(("way", "best knobs", "test accuracy, %", "training, %"), rows)


def equivalent(outcomes: Sequence[Outcome]) -> str:
    """By task: the start that tuned weight decay leads to, against FixNorm's own learning rates."""
    best = best_points("methods", outcomes)
    rows = []
    for task in dict.fromkeys(group[0] for group in best):
        decay = best.get((task, "weight decay on all"))
        if decay is None:
            continue
        way = decay.way
        fixed = [one for one in outcomes if one.run.task == task and one.run.way.hold == "one"]
        fixed = [
            one for one in fixed if one.run.way == Way(one.run.way.lr, fc_norm=START_FC_NORM) and one.run.seed == 0
        ]
        gradient = median(gradient_norm(one) for one in fixed)
        guess = equivalent_start(lr=way.lr, weight_decay=way.weight_decay, momentum=MOMENTUM)["lr"]
        told = equivalent_start(lr=way.lr, weight_decay=way.weight_decay, momentum=MOMENTUM, gradient_norm=gradient)[
            "lr"
        ]
        accuracies = {one.run.way.lr: one.validation for one in fixed}
        peak_rate = max(accuracies, key=lambda rate: accuracies[rate])
        lost = [100 * (accuracies[peak_rate] - between(accuracies, rate)) for rate in (guess, told)]
        rows.append(
            (
                TASKS[task].about,
                _knobs(way),
                f"{guess:.3g} (-{lost[0]:.1f})",
                f"{gradient:.2g}",
                f"{told:.3g} (-{lost[1]:.1f})",
                f"{peak_rate:g}",
            )
        )
    titles = ("task", "tuned weight decay", "start at G = 1 (points lost)", "measured G", "start at that G", "best lr")
    return table(titles, rows)


def runs_table(study: str) -> Callable[[Sequence[Outcome]], str]:
    """How many runs stand behind a study."""

    def count(outcomes: Sequence[Outcome]) -> str:
        diverged = sum(one.diverged for one in outcomes)
        return f"{len(outcomes)} runs ({diverged} diverged) in `benchmarks/accuracy/results/{study}.jsonl`."

    return count


TABLES: dict[str, tuple[str, Callable[[Sequence[Outcome]], str]]] = {
    "methods": ("methods", methods),
    "methods runs": ("methods", runs_table("methods")),
    "surface over fixnorm": ("methods", surface("over", fixed=True)),
    "surface over decay": ("methods", surface("over", fixed=False)),
    "surface middle fixnorm": ("methods", surface("middle", fixed=True)),
    "surface middle decay": ("methods", surface("middle", fixed=False)),
    "surface under fixnorm": ("methods", surface("under", fixed=True)),
    "surface under decay": ("methods", surface("under", fixed=False)),
    "equivalent": ("methods", equivalent),
    "norms": ("norms", norms),
    "norms runs": ("norms", runs_table("norms")),
    "transfer": ("norms", transfer),
    "head": ("head", head),
    "head runs": ("head", runs_table("head")),
    "schedule": ("schedule", schedule),
    "schedule runs": ("schedule", runs_table("schedule")),
    "choices": ("choices", choices),
    "choices runs": ("choices", runs_table("choices")),
    "large": ("large", large),
    "large runs": ("large", runs_table("large")),
}
"""Tables by name: the study they are of, and what draws them from its outcomes."""


def _early_rotation(outcomes: Sequence[Outcome], *, task: str, hold: str, lr: float) -> float:
    """Mean rotation per step of the held weights at the first look, a fifth into the run."""
    same = [one for one in outcomes if (one.run.task, one.run.way.hold, one.run.way.lr) == (task, hold, lr)]
    return mean(one.trace[0]["rotation"]["scale_invariant"] for one in same if one.trace)


def _choice(run: Run) -> str:
    way = run.way
    if way.granularity == "filter":
        return "norm held by filter"
    if way.momentum_radial == "remove":
        return "radial momentum removed"
    if way.bound_gates:
        return "gates bounded too"
    return "last gains bounded too" if way.bound_gain else ""


def _knobs(way: Way) -> str:
    if way.hold != "no":
        return f"lr {way.lr:g}, fc_norm {'none' if way.fc_norm is None else f'{way.fc_norm:g}'}"
    return f"lr {way.lr:g}" + (f", decay {way.weight_decay:g}" if way.weight_decay else "")


def _accuracy(point: Best) -> str:
    if not point.test:
        return f"({100 * point.chosen_by:.1f}, validation, chosen by it)"
    error = "" if math.isnan(point.error) else f" ± {100 * point.error:.1f}"
    return f"{100 * mean(point.test):.1f}{error} ({len(point.test)} seeds)"


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    return "diverged" if outcome.diverged else f"{100 * outcome.validation:.1f}"
