"""Our tables. They hold what Optuna has no place for; parameters, values and states of trials are Optuna's alone."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.clock import utc_now
from service.database.types import Document, LongWords, UtcDateTime, Words
from service.schemas import JobState

__all__ = [
    "LIVE_ATTEMPT_STATES",
    "AttemptKind",
    "AttemptRow",
    "AttemptState",
    "Base",
    "DeliveryRow",
    "EventRow",
    "JobRow",
    "LeaseRow",
    "QuarantineRow",
    "SessionRow",
    "TokenRow",
    "TrackedRow",
]


class AttemptKind(StrEnum):
    """What an attempt does."""

    TRAIN = "train"
    EVALUATE = "evaluate"


class AttemptState(StrEnum):
    """Where an attempt is; its ``reason`` says why."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    LOST = "LOST"
    CANCELLED = "CANCELLED"


LIVE_ATTEMPT_STATES = (AttemptState.STARTING, AttemptState.RUNNING)

_IS_LIVE = text("state IN ('STARTING', 'RUNNING')")


class Base(DeclarativeBase):
    """The declarative base of our tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: Document}  # noqa: RUF012 - SQLAlchemy's own convention


class JobRow(Base):
    """One job. Its Optuna study has the job's id as its name.

    Attributes:
        spec: The :class:`~fixnorm_core.spec.JobSpec` as submitted, with paths resolved.
        amended: The parts of it (``budget``, ``share``) that were changed since, whole; None when nothing was. What
            holds now is :func:`service.jobs.amended.spec_of`.
        idempotency_key: The submitter's key; a second submit with it returns this job.
        study_id: Optuna's number of the study, once it exists.
        cancel_requested: The dispatcher ends the job at its next look.
        stop_reason: Why the search ended; set before the confirming runs, and taken back when the search is reopened.
        served_at: When an attempt of it was started last; None when that was lost with its server.
        waiting_since: Since when a trial of it has wanted to start and could not, for the sake of others; None when
            none does.
        result: The final :class:`~service.schemas.BestView`, once the job has succeeded; of an earlier round while it
            goes on in another.
        amendments: How often somebody had it go on under other terms. A write of the dispatcher names the number that
            it was decided under, so that no decision on older terms has an effect.
        round: How often it was reopened; see :mod:`service.jobs.reopening`.
        search_round: The round in which its search was last reopened.
        retry_round: The failed trials that were begun in a round before this one are to be trained again.
        reopened_at: When the last round began; None in the first.
        pauses: When it was paused, and until when; see :mod:`service.jobs.pauses`. None when it never was.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(Words(40), primary_key=True)
    name: Mapped[str] = mapped_column(Words(100))
    state: Mapped[str] = mapped_column(Words(20), default=JobState.QUEUED)
    reason: Mapped[str] = mapped_column(LongWords, default="")
    spec: Mapped[dict[str, Any]]
    amended: Mapped[dict[str, Any] | None]
    idempotency_key: Mapped[str | None] = mapped_column(Words(200), unique=True)
    study_id: Mapped[int | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    stop_reason: Mapped[str | None] = mapped_column(LongWords)
    result: Mapped[dict[str, Any] | None]
    amendments: Mapped[int] = mapped_column(default=0, server_default="0")
    round: Mapped[int] = mapped_column(default=0, server_default="0")
    search_round: Mapped[int] = mapped_column(default=0, server_default="0")
    retry_round: Mapped[int] = mapped_column(default=0, server_default="0")
    reopened_at: Mapped[datetime | None]
    pauses: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    served_at: Mapped[datetime | None]
    waiting_since: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_jobs_state", "state"),
        Index("ix_jobs_created_at_id", "created_at", "id"),
        Index("ix_jobs_served_at", "served_at"),
    )


class AttemptRow(Base):
    """One try at one task of a job. No task has two that are live.

    Attributes:
        lease: Token of the dispatcher's lease under which it was started. Only a holder of that token may write how it
            goes on; a server that takes over makes it its own where it still runs, else gives it up as LOST.
        trial_number: Optuna's number of the trial that is trained, or whose weights are evaluated.
        round: The job's, when it was started.
        failure: The :class:`~worker.contracts.FailureKind` of a FAILED attempt.
        result: The :class:`~fixnorm_core.reports.TrialResult` or :class:`~fixnorm_core.reports.Evaluation`.
    """

    __tablename__ = "attempts"

    id: Mapped[str] = mapped_column(Words(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(Words(20))
    trial_number: Mapped[int]
    round: Mapped[int] = mapped_column(default=0, server_default="0")
    state: Mapped[str] = mapped_column(Words(20), default=AttemptState.STARTING)
    reason: Mapped[str] = mapped_column(LongWords, default="")
    failure: Mapped[str | None] = mapped_column(Words(20))
    result: Mapped[dict[str, Any] | None]
    lease: Mapped[str | None] = mapped_column(Words(40))
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_attempts_job_id", "job_id", "trial_number"),
        Index("ix_attempts_state", "state"),
        Index(
            "uq_attempts_live",
            *("job_id", "trial_number", "kind"),
            unique=True,
            sqlite_where=_IS_LIVE,
            postgresql_where=_IS_LIVE,
        ),
    )


class LeaseRow(Base):
    """Which server has a duty that one at a time may have; see :mod:`service.dispatch.lease`.

    Attributes:
        name: The duty.
        token: New with every holder; None when nobody has it.
        holder: Who has it, for a person.
        ends_at: When it is over unless its holder renews it, by the database's clock.
        term: How often it has been taken.
        deployment: Tells this database from others, on a cluster that they share.
    """

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(Words(40), primary_key=True)
    token: Mapped[str | None] = mapped_column(Words(40))
    holder: Mapped[str | None] = mapped_column(Words(200))
    ends_at: Mapped[datetime | None]
    term: Mapped[int] = mapped_column(default=0, server_default="0")
    deployment: Mapped[str | None] = mapped_column(Words(40))


class QuarantineRow(Base):
    """What a node was last condemned to: a :class:`~service.nodes.quarantine.Sentence`."""

    __tablename__ = "quarantines"

    node: Mapped[str] = mapped_column(Words(200), primary_key=True)
    reason: Mapped[str] = mapped_column(LongWords)
    since: Mapped[datetime]
    until: Mapped[datetime]
    times: Mapped[int]
    lifted_at: Mapped[datetime | None]


class EventRow(Base):
    """Something that happened to a job, in the order in which it was stored; never changed, removed with its job.

    Attributes:
        number: Counts a job's events from 1 without gaps, in the order in which they became visible to readers.
        kind: An :class:`~service.schemas.EventKind`.
        key: What it tells of, where that may be recorded again after a crash; the second time changes nothing.
        data: The rest of the :class:`~service.schemas.EventView`.
        created_at: When it was stored.
    """

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Words(30))
    key: Mapped[str | None] = mapped_column(Words(60))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    __table_args__ = (UniqueConstraint("job_id", "key", name="uq_events_job_id_key"),)


class DeliveryRow(Base):
    """An event that a webhook is to be told.

    Attributes:
        url: Where to.
        tries: So far.
        due_at: When it is tried next; None when it has arrived or was given up.
        delivered_at: When it arrived; None while it has not.
        error: What went wrong at the last try.
    """

    __tablename__ = "deliveries"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    url: Mapped[str] = mapped_column(LongWords)
    tries: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None] = mapped_column(default=utc_now)
    delivered_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(LongWords)

    __table_args__ = (Index("ix_deliveries_due_at", "due_at"),)


class TrackedRow(Base):
    """How far a tracker of experiments has been told of a job; see :mod:`service.trackers`.

    Attributes:
        number: Of the last event that it is known to have been told.
        complete: The job has ended, and it has been told all.
    """

    __tablename__ = "tracked"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    tracker: Mapped[str] = mapped_column(Words(20), primary_key=True)
    number: Mapped[int] = mapped_column(default=0)
    complete: Mapped[bool] = mapped_column(default=False)

    __table_args__ = (Index("ix_tracked_tracker_complete", "tracker", "complete"),)


class TokenRow(Base):
    """A token that somebody was given; see :mod:`service.access.tokens`. Revoked ones stay.

    Attributes:
        id: Its public part.
        name: Whose it is.
        scope: A :class:`~service.access.scopes.Scope`.
        digest: SHA-256 of the whole token, in hex.
        last_used_at: To the minute.
    """

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(Words(12), primary_key=True)
    name: Mapped[str] = mapped_column(Words(100))
    scope: Mapped[str] = mapped_column(Words(10))
    digest: Mapped[str] = mapped_column(Words(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class SessionRow(Base):
    """A browser that is logged in.

    Attributes:
        digest: SHA-256 of its cookie, in hex.
        token_id: The token that it logged in with; the session is worth what the token is.
        admin_digest: SHA-256 of the administrator's token of the settings, if it was that one.
    """

    __tablename__ = "sessions"

    digest: Mapped[str] = mapped_column(Words(64), primary_key=True)
    token_id: Mapped[str | None] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"))
    admin_digest: Mapped[str | None] = mapped_column(Words(64))
    created_at: Mapped[datetime]
    ends_at: Mapped[datetime]

    __table_args__ = (Index("ix_sessions_ends_at", "ends_at"),)
