"""Numbers and times as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from fixnorm_core.spec import BudgetSpec, duration_text, moment_text

__all__ = ["knobs", "limits", "local_time", "number", "percent", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with two decimals; a dash when there is none."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def knobs(params: Mapping[str, float]) -> str:
    """A point of the search space in one line."""
    return ", ".join(f"{name} {number(value)}" for name, value in params.items())


def limits(budget: BudgetSpec) -> str:
    """What ends a job, in one line."""
    words = [f"{budget.max_trials} trials"]
    if budget.confirming_trials:
        words.append(f"{budget.confirming_trials} of them to confirm {_points(budget.confirm_top_k)}")
    if budget.max_time is not None:
        words.append(f"{duration_text(budget.max_time)} in all")
    if budget.deadline is not None:
        words.append(f"over at {moment_text(budget.deadline)}")
    if budget.max_trial_time is not None:
        words.append(f"{duration_text(budget.max_trial_time)} for a trial")
    if budget.target_accuracy is not None:
        words.append(f"until {percent(budget.target_accuracy)}")
    if budget.max_time_without_progress is not None:
        words.append(f"{duration_text(budget.max_time_without_progress)} without progress")
    if budget.max_trials_without_progress is not None:
        words.append(f"{budget.max_trials_without_progress} trials without progress")
    if budget.max_failed is not None:
        words.append(f"until {budget.max_failed} have failed")
    return ", ".join(words)


def local_time(moment: datetime | None) -> str:
    """A time on this machine's clock, to the second; a dash when there is none."""
    return "-" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def sparkline(curve: Sequence[float], *, low: float, high: float, width: int = 16) -> str:
    """A curve as a row of bars.

    Args:
        curve: The values.
        low: The value of the lowest bar.
        high: The value of the highest bar.
        width: Bars at most; of a longer curve, values at even distances are drawn, the last one always.
    """
    if len(curve) > width:
        curve = [curve[(bar + 1) * len(curve) // width - 1] for bar in range(width)]
    span = (high - low) or 1.0
    steps = len(_BARS) - 1
    return "".join(_BARS[min(steps, max(0, round((value - low) / span * steps)))] for value in curve)


def _points(count: int) -> str:
    return "the best point" if count == 1 else f"the best {count} points"
