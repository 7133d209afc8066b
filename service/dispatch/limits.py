"""The limits of a job's budget, on the times that are stored of it: when its search ends, and what still fits in.

Pure functions. Times are of the server's clock, which does not jump (:mod:`service.clock`); a start that lies ahead,
because the clock was set back while no server ran, counts as now. What strikes while trials run:

- ``max_time`` and ``deadline`` are for the whole job: they end everything that runs, whatever it is, and the best so
  far is the result. Before that, no run is started that would not end in time at the length of those before, and the
  search leaves time for the confirming runs. What the job was paused counts for ``deadline`` alone.
- ``max_trial_time`` ends one attempt, as failed.
- ``target_accuracy`` ends the other search trials, which can no longer matter, and the point is confirmed.
- All other limits let the running trials finish, since they may be better, and confirm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fixnorm_core.spec import BudgetSpec, duration_text, moment_text

__all__ = ["Finished", "Times", "is_overdue", "no_progress", "no_time_for_a_trial", "time_is_up", "until_next_limit"]

_RECENT = 3
"""The last so many trials tell how long one takes; the first of a job also load its data and warm its slot up."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A search trial that has ended by itself.

    Attributes:
        ended_at: When.
        accuracy: Its final validation accuracy; None if it diverged or was stopped early.
    """

    ended_at: datetime
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Times:
    """How long things have taken by now.

    Attributes:
        job: Since the job's first trial was started, less what it was paused; zero before.
        trial: What a whole training run takes: the longest of the last few; None before one has ended.
        without_progress: Since the trial that last raised the best accuracy ended, or the first trial at all, less what
            the job was paused; None before one has ended.
        trials_without_progress: Search trials that ended after it.
        before_deadline: Until the deadline; None without one.
        attempt: Since the longest running attempt was started; None while none runs.
        is_paused: Whether the job is, so that the two that leave that out stand still.
    """

    job: timedelta = timedelta(0)
    trial: timedelta | None = None
    without_progress: timedelta | None = None
    trials_without_progress: int = 0
    before_deadline: timedelta | None = None
    attempt: timedelta | None = None
    is_paused: bool = False

    @classmethod
    def measure(
        cls,
        *,
        started_at: datetime | None,
        now: datetime,
        searched: Iterable[Finished],
        lengths: Sequence[timedelta],
        tolerance: float,
        best: float = -math.inf,
        deadline: datetime | None = None,
        attempts: Iterable[datetime] = (),
        paused: Callable[[datetime], timedelta] = lambda _: timedelta(0),
        is_paused: bool = False,
    ) -> Times:
        """From what is stored.

        Args:
            started_at: When the job's first trial was started, or the job was last reopened.
            now: The time.
            searched: The search trials that have ended by themselves since.
            lengths: Of all training runs that were complete, oldest first.
            tolerance: The gain in accuracy that is none.
            best: The best accuracy before.
            deadline: When the job is to be over.
            attempts: When those that run were started.
            paused: How long the job was paused since a time.
            is_paused: Whether it is.
        """

        def passed(begun: datetime) -> timedelta:
            return max(now - begun - paused(begun), timedelta(0))

        last, since = None, 0
        for trial in sorted(searched, key=lambda trial: trial.ended_at):
            if trial.accuracy is not None and trial.accuracy > best + tolerance:
                best, last, since = trial.accuracy, trial.ended_at, 0
            else:
                last, since = last or trial.ended_at, since + 1
        return cls(
            job=passed(started_at) if started_at is not None else timedelta(0),
            trial=max(lengths[-_RECENT:], default=None),
            without_progress=passed(last) if last is not None else None,
            trials_without_progress=since,
            before_deadline=deadline - now if deadline is not None else None,
            attempt=max((now - begun for begun in attempts), default=None),
            is_paused=is_paused,
        )


def time_is_up(budget: BudgetSpec, times: Times) -> str | None:
    """Why nothing of the job may run any longer; None while it may."""
    if budget.max_time is not None and times.job >= budget.max_time:
        return f"max_time of {duration_text(budget.max_time)} is over"
    if budget.deadline is not None and times.before_deadline is not None and times.before_deadline <= timedelta(0):
        return f"the deadline {moment_text(budget.deadline)} has passed"
    return None


def no_time_for_a_trial(budget: BudgetSpec, times: Times, *, confirming: int) -> str | None:
    """Why no further run would end in time with ``confirming`` runs after it; None if it would, or nobody knows."""
    if times.trial is None:
        return None
    needed = (1 + math.ceil(confirming / budget.parallel_trials)) * times.trial
    if budget.max_time is not None and times.job + needed > budget.max_time:
        limit = f"max_time of {duration_text(budget.max_time)}"
    elif budget.deadline is not None and times.before_deadline is not None and needed > times.before_deadline:
        limit = f"the deadline {moment_text(budget.deadline)}"
    else:
        return None
    beside = f" and {_runs(confirming)} to confirm" if confirming else ""
    return f"{limit} leaves no time for another trial{beside}: a trial takes {_about(times.trial)}"


def is_overdue(budget: BudgetSpec, begun: datetime, now: datetime) -> bool:
    """Whether an attempt has run for longer than any may."""
    return budget.max_trial_time is not None and now - begun >= budget.max_trial_time


def no_progress(budget: BudgetSpec, times: Times) -> str | None:
    """Why the search is not worth going on with; None while it is."""
    gain = f" by more than {100 * budget.tolerance:g} points" if budget.tolerance else ""
    trials, time = budget.max_trials_without_progress, budget.max_time_without_progress
    if trials is not None and times.trials_without_progress >= trials:
        last = "the last trial has" if trials == 1 else f"the last {trials} trials have"
        return f"{last} not raised the best accuracy{gain} (max_trials_without_progress)"
    if time is not None and times.without_progress is not None and times.without_progress >= time:
        return f"no trial has raised the best accuracy{gain} for {duration_text(time)} (max_time_without_progress)"
    return None


def until_next_limit(budget: BudgetSpec, times: Times) -> timedelta | None:
    """How long until a limit of time strikes if nothing else happens; None if none is to come."""
    left = []
    if budget.max_time is not None and not times.is_paused:
        left.append(budget.max_time - times.job)
    if budget.max_time_without_progress is not None and times.without_progress is not None and not times.is_paused:
        left.append(budget.max_time_without_progress - times.without_progress)
    if times.before_deadline is not None:
        left.append(times.before_deadline)
    if budget.max_trial_time is not None and times.attempt is not None:
        left.append(budget.max_trial_time - times.attempt)
    return min((each for each in left if each > timedelta(0)), default=None)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _about(duration: timedelta) -> str:
    """Without the digits that nobody reads."""
    seconds = duration.total_seconds()
    step = 60.0 if seconds >= 3600 else 1.0 if seconds >= 10 else 0.01
    return duration_text(timedelta(seconds=round(seconds / step) * step))
