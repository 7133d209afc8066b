"""How long a task rests after a failure that is not its own, before it is tried again.

A short outage must not use up all tries of a trial within seconds, and a long one must not be asked about a thousand
times. The wait follows from what is stored, so that a server that takes over waits no less and no longer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.database.rows import AttemptKind, AttemptRow, AttemptState
from worker.contracts import RETRIED_FAILURES, FailureKind

__all__ = ["MAX_REST", "Rest", "find_rests"]

MAX_REST = timedelta(minutes=5)
"""No wait is longer."""

_GROWTH = 4


@dataclass(frozen=True, slots=True)
class Rest:
    """A task that waits to be tried again.

    Attributes:
        until: When its wait is over.
        reason: What failed, as a sentence for a person.
    """

    until: datetime
    reason: str


def find_rests(
    rows: Sequence[AttemptRow],
    *,
    now: datetime,
    first: timedelta,
    after: Collection[FailureKind] = RETRIED_FAILURES,
) -> Mapping[tuple[AttemptKind, int], Rest]:
    """The tasks of a job that rest now, by kind and trial number.

    Args:
        rows: All attempts of the job; those at one task oldest first.
        now: The time. Before the failure itself, which a clock set back makes it, nothing rests.
        first: The wait after a first failure; after each further one in a row it is four times as long.
        after: The failures that ask for a rest.
    """
    in_a_row: dict[tuple[AttemptKind, int], list[AttemptRow]] = {}
    for row in rows:
        task = (AttemptKind(row.kind), row.trial_number)
        if row.state == AttemptState.FAILED and row.failure in after:
            in_a_row.setdefault(task, []).append(row)
        else:
            in_a_row.pop(task, None)
    found = {}
    for task, failed in in_a_row.items():
        ended = failed[-1].ended_at
        assert ended is not None
        wait = min(first * _GROWTH ** min(len(failed) - 1, 10), MAX_REST)
        if ended <= now < ended + wait:
            found[task] = Rest(ended + wait, failed[-1].reason)
    return found
