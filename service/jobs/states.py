"""Which state may follow which: one table for jobs, one for attempts. Why is said by a reason, which is no state."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from service.database.rows import LIVE_ATTEMPT_STATES, AttemptState
from service.schemas import TERMINAL_STATES, JobState

__all__ = ["ACTIVE_JOB_STATES", "ATTEMPT_MOVES", "JOB_MOVES", "IllegalMove", "check_move", "origins"]

S = TypeVar("S", bound=StrEnum)

_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
_ATTEMPT_ENDS = frozenset(AttemptState) - frozenset(LIVE_ATTEMPT_STATES)

JOB_MOVES: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        # Nothing was trained yet, so there is nothing to succeed with: one that is stopped ends as cancelled.
        JobState.QUEUED: frozenset(
            {JobState.RUNNING, JobState.PAUSED, JobState.STOPPING, JobState.FAILED, JobState.CANCELLED}
        ),
        JobState.RUNNING: _ENDS | {JobState.PAUSED, JobState.STOPPING},
        # What was running ends well or badly while a job is paused, and no more than that. It goes back to where it
        # was: to the queue if it had not begun.
        JobState.PAUSED: frozenset(
            {JobState.QUEUED, JobState.RUNNING, JobState.STOPPING, JobState.FAILED, JobState.CANCELLED}
        ),
        JobState.STOPPING: _ENDS,
        # Reopened by somebody who wants more of it: never by the dispatcher. To the queue if it had not begun.
        JobState.SUCCEEDED: frozenset({JobState.RUNNING}),
        JobState.FAILED: frozenset({JobState.QUEUED, JobState.RUNNING}),
        JobState.CANCELLED: frozenset({JobState.QUEUED, JobState.RUNNING}),
    }
)
"""From each state of a job, those that may follow."""

ATTEMPT_MOVES: Mapping[AttemptState, frozenset[AttemptState]] = MappingProxyType(
    {
        AttemptState.STARTING: _ATTEMPT_ENDS | {AttemptState.RUNNING},  # an evaluation reports nothing before its end
        AttemptState.RUNNING: _ATTEMPT_ENDS,
        AttemptState.COMPLETE: frozenset(),
        AttemptState.PRUNED: frozenset(),
        AttemptState.FAILED: frozenset(),
        AttemptState.LOST: frozenset(),
        AttemptState.CANCELLED: frozenset(),
    }
)
"""From each state of an attempt, those that may follow."""

ACTIVE_JOB_STATES = tuple(state for state in JobState if state not in TERMINAL_STATES)


class IllegalMove(Exception):
    """A move that no table has: a bug, and never the outcome of a race, which a guarded write answers with False."""


def check_move(moves: Mapping[S, frozenset[S]], origin: S, to: S) -> None:
    """Raises IllegalMove unless ``to`` may follow ``origin``."""
    if to not in moves[origin]:
        raise IllegalMove(f"{type(origin).__name__} {origin} is never followed by {to}")


def origins(moves: Mapping[S, frozenset[S]], to: S) -> tuple[S, ...]:
    """The states that ``to`` may follow.

    Raises:
        IllegalMove: If there is none.
    """
    found = tuple(origin for origin, following in moves.items() if to in following)
    if not found:
        raise IllegalMove(f"{type(to).__name__} {to} follows no other")
    return found
