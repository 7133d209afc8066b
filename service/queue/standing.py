"""Where jobs that have not ended stand: the little of each that says whose turn it is, read for all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from fixnorm_core.spec import ResourceSpec, ShareSpec
from service.database.rows import LIVE_ATTEMPT_STATES, AttemptRow, JobRow
from service.jobs.states import ACTIVE_JOB_STATES
from service.queue.share import Claim, Lane
from service.schemas import TERMINAL_STATES, JobState
from worker.contracts import Resources

__all__ = ["MEMORY", "Standing", "count_running", "count_waiting", "last_served", "load_standings"]

MEMORY = timedelta(hours=1)
"""How long a user's turn by a job that has ended since is remembered."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One job's; the times are those of its row.

    Attributes:
        share: What holds now.
        needed: What one trial of it holds.
    """

    job_id: str
    name: str
    state: JobState
    reason: str
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    served_at: datetime | None
    waiting_since: datetime | None
    share: ShareSpec
    needed: Resources

    @property
    def waits(self) -> bool:
        """Whether a trial of it would start if there were room."""
        if self.cancel_requested or self.state is JobState.PAUSED:
            return False
        return self.wants_room

    @property
    def wants_room(self) -> bool:
        """Whether it waited for room when it was last looked at, or has not been looked at."""
        return self.waiting_since is not None or self.has_not_begun

    @property
    def has_not_begun(self) -> bool:
        """Whether it is in the queue as it was submitted: nothing of it can have ended."""
        return self.state is JobState.QUEUED and self.started_at is None

    def claim(self, held: Resources) -> Claim:
        """What it holds and wants."""
        since = self.waiting_since or (self.created_at if self.has_not_begun else None)
        return Claim(self.job_id, self.created_at, self.share, self.needed, held, self.served_at, since)


def load_standings(session: Session) -> Sequence[Standing]:
    """Of all jobs that have not ended, oldest first. Their specs stay in the database but for two parts."""
    query = (
        select(
            *(JobRow.id, JobRow.name, JobRow.state, JobRow.reason, JobRow.cancel_requested, JobRow.created_at),
            *(JobRow.started_at, JobRow.served_at, JobRow.waiting_since),
            *(JobRow.amended, JobRow.spec["share"], JobRow.spec["resources"]),
        )
        .where(JobRow.state.in_(ACTIVE_JOB_STATES))
        .order_by(JobRow.created_at, JobRow.id)
    )
    return [_standing(*row) for row in session.execute(query)]


def last_served(session: Session, *, after: datetime) -> Mapping[Lane, datetime]:
    """When a trial of each user was started last, if that was after a time, of jobs that have ended."""
    ended = select(JobRow.served_at, JobRow.amended, JobRow.spec["share"], JobRow.spec["resources"]).where(
        JobRow.served_at > after, JobRow.state.in_(TERMINAL_STATES)
    )
    found: dict[Lane, datetime] = {}
    for served_at, amended, share, resources in session.execute(ended):
        lane = _share_of(share, amended).user, _needed_of(resources).gpus > 0
        found[lane] = max(served_at, found.get(lane, served_at))
    return found


def count_running(session: Session) -> Mapping[str, int]:
    """How many attempts of each job may be running; jobs without any are left out."""
    query = select(AttemptRow.job_id, func.count()).where(AttemptRow.state.in_(LIVE_ATTEMPT_STATES))
    return {row[0]: row[1] for row in session.execute(query.group_by(AttemptRow.job_id))}


def count_waiting(session: Session) -> int:
    """How many jobs have a trial that would start if there were room."""
    has_not_begun = and_(JobRow.state == JobState.QUEUED, JobRow.started_at.is_(None))
    waits = or_(JobRow.waiting_since.is_not(None), has_not_begun)
    able = (JobRow.state.in_(ACTIVE_JOB_STATES), JobRow.state != JobState.PAUSED, JobRow.cancel_requested.is_(False))
    return session.scalar(select(func.count()).where(*able, waits)) or 0


def _standing(
    job_id: str,
    name: str,
    state: str,
    reason: str,
    cancel_requested: bool,
    created_at: datetime,
    started_at: datetime | None,
    served_at: datetime | None,
    waiting_since: datetime | None,
    amended: dict[str, Any] | None,
    share: dict[str, Any] | None,
    resources: dict[str, Any] | None,
) -> Standing:
    return Standing(
        job_id,
        name,
        JobState(state),
        reason,
        cancel_requested,
        created_at,
        started_at,
        served_at,
        waiting_since,
        _share_of(share, amended),
        _needed_of(resources),
    )


def _share_of(submitted: dict[str, Any] | None, amended: dict[str, Any] | None) -> ShareSpec:
    return _share(tuple(((amended or {}).get("share", submitted) or {}).items()))


def _needed_of(resources: dict[str, Any] | None) -> Resources:
    return _needed(tuple((resources or {}).items()))


@lru_cache(maxsize=1024)
def _share(stored: tuple[tuple[str, Any], ...]) -> ShareSpec:
    return ShareSpec.model_validate(dict(stored), extra="ignore")


@lru_cache(maxsize=1024)
def _needed(stored: tuple[tuple[str, Any], ...]) -> Resources:
    return Resources.of(ResourceSpec.model_validate(dict(stored), extra="ignore"))
