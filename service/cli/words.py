"""Numbers and times as people read them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import timedelta

from fixnorm_core.spec import BudgetSpec, JobSpec, SamplerName, duration_text, moment_text
from service.reporting.rows import counted, local_time, percent
from service.schemas import TERMINAL_STATES, JobState, JobView, TrialState, TrialView

__all__ = [
    "counted",
    "ending",
    "knobs",
    "limits",
    "local_time",
    "no_weights",
    "number",
    "percent",
    "sparkline",
    "time_left",
]

_BARS = "▁▂▃▄▅▆▇█"


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def knobs(params: Mapping[str, float]) -> str:
    """A point of the search space in one line."""
    return ", ".join(f"{name} {number(value)}" for name, value in params.items())


def limits(budget: BudgetSpec) -> str:
    """What ends a job, in one line."""
    words = [counted(budget.max_trials, "trial")]
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
        words.append(f"{counted(budget.max_trials_without_progress, 'trial')} without progress")
    if budget.max_failed is not None:
        words.append(f"until {budget.max_failed} have failed")
    return ", ".join(words)


def ending(spec: JobSpec) -> str:
    """What ends a job, its search's own doing too, in one line."""
    stops = spec.budget.stop_early and spec.search.sampler is SamplerName.FIXNORM
    return limits(spec.budget) + (", or once no gain is expected" if stops else "")


def no_weights(job: JobView) -> str:
    """Why nothing was kept of a job's weights."""
    if job.state is JobState.SUCCEEDED:
        return "the job's trials trained none (a simulator ran them), or they were removed since"
    if job.state in TERMINAL_STATES:
        return f"the job is {job.state}, and one that has succeeded keeps them"
    return f"the job is {job.state}; they are kept once it has succeeded"


def time_left(job: JobView, trials: Sequence[TrialView]) -> str:
    """How long a job goes on at most, if its trials to come take as long as those that have ended: their median."""
    ended = [each.seconds for each in trials if each.state in _CHARGED and each.seconds is not None]
    if not ended:
        return "time left: told after the first trial"
    rounds = math.ceil((job.progress.max_trials - job.progress.finished) / job.spec.trials_at_once)
    seconds = rounds * statistics.median(ended)
    step = next(step for most, step in _STEPS if seconds < most)
    return f"at most about {duration_text(timedelta(seconds=math.ceil(seconds / step) * step))} to go"


_CHARGED = (TrialState.COMPLETE, TrialState.DIVERGED, TrialState.PRUNED)
_STEPS = ((60.0, 5), (3600.0, 60), (math.inf, 600))
"""Below so many seconds a time is told in steps of so many."""


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
