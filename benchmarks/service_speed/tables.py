"""The tables of the results page, from the kept results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from pages import table

__all__ = ["TABLES", "percentile"]

Results = Mapping[str, Any]


def percentile(seconds: Sequence[float], percent: int) -> float:
    """Of some times; of few of them the upper ones are about the largest."""
    return quantiles(seconds, n=100, method="inclusive")[percent - 1] if len(seconds) > 1 else seconds[0]


def _trials(results: Results) -> str:
    return _pairs("Optuna's", [(name, pairs, 0.7) for name, pairs in results.get("trials", {}).items()])


def _tune(results: Results) -> str:
    if "tune" not in results:
        return f"Not measured: {results.get('no tune', 'not run yet')}."
    return _pairs("Ray Tune's", [("SQLite; one epoch", results["tune"], 3.0)])


def _pairs(other: str, rows: Sequence[tuple[str, Sequence[Mapping[str, Any]], float]]) -> str:
    titles = ("database", "told of each trial", "trials/s", other, "ratio", "CPU ms a trial", other)
    return table((*titles, "ratio in CPU time", "pairs", "goal"), [_pair_row(*row) for row in rows])


def _pair_row(name: str, pairs: Sequence[Mapping[str, Any]], goal: float) -> tuple[str, ...]:
    cells = name.split("; ")
    for by in ("wall", "cpu"):
        each = {side: median(pair[side][by] / pair["trials"] for pair in pairs) for side in ("ours", "other")}
        cells += [f"{1 / one:.1f}" if by == "wall" else f"{1000 * one:.0f}" for one in each.values()]
        ratios = sorted(pair["other"][by] / pair["ours"][by] for pair in pairs)
        cells.append(f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    met = median(pair["other"]["wall"] / pair["ours"]["wall"] for pair in pairs) >= goal
    return (*cells, str(len(pairs)), f"{goal:g}" if met else f"{goal:g}, **missed**")


def _gap(results: Results) -> str:
    rows = [
        _times(f"a trial's end to the next one's start, {which}", gaps, {50: 50, 99: 250})
        for which, gaps in results.get("gap", {}).items()
    ]
    return table(_TIMES, rows)


def _posts(results: Results) -> str:
    rows = []
    for name, measured in results.get("posts", {}).items():
        row = _times(
            f"{name}; {measured['errors']} errors", measured["seconds"], {99: 100} if "at once" in name else {}
        )
        rows.append(row)
    return table(_TIMES, rows)


def _reading(results: Results) -> str:
    rows = []
    for jobs, ways in results.get("reading", {}).items():
        for name, measured in ways.items():
            row = _times(f"{name}, {jobs} jobs", measured["seconds"], {95: 100})
            rows.append((*row, f"{1000 * measured['cpu']:.0f}"))
    return table((*_TIMES, "server's CPU ms each"), rows)


def _memory(results: Results) -> str:
    rows = [(when, f"{mib:.0f}", "400") for when, mib in results.get("memory", {}).items()]
    return table(("server's resident memory", "MiB", "goal"), rows)


_TIMES = ("what", "p50 ms", "p95 ms", "p99 ms", "largest", "count", "goal")


def _times(name: str, seconds: Sequence[float], goals: Mapping[int, int]) -> tuple[str, ...]:
    found = {percent: 1000 * percentile(seconds, percent) for percent in (50, 95, 99)}
    said = "; ".join(
        f"p{percent} ≤ {goal}{'' if found[percent] <= goal else ', **missed**'}" for percent, goal in goals.items()
    )
    shown = [f"{each:.0f}" for each in (*found.values(), 1000 * max(seconds))]
    return (name, *shown, str(len(seconds)), said or "none")


TABLES: Mapping[str, Callable[[Results], str]] = {
    "trials": _trials,
    "tune": _tune,
    "gap": _gap,
    "posts": _posts,
    "reading": _reading,
    "memory": _memory,
}
"""By name: what the page shows of the results."""
