"""What runs now, and how it is to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from service.database.rows import AttemptKind, AttemptState
from worker.contracts import NOTHING, FailureKind, Resources

__all__ = ["End", "Live", "LiveAttempt"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LiveAttempt:
    """An attempt that the backend is running, started under a lease of this server's or adopted under it."""

    id: str
    lease: str
    job_id: str
    kind: AttemptKind
    trial_number: int
    resources: Resources

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """Says of every line which attempt it is about."""
        bound: structlog.stdlib.BoundLogger = log.bind(job=self.job_id, trial=self.trial_number, attempt=self.id)
        return bound


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt is to end, whatever its worker says."""

    attempt: LiveAttempt
    state: AttemptState
    reason: str
    failure: FailureKind | None = None


class Live(dict[str, LiveAttempt]):
    """The live attempts of all jobs by their ids."""

    def held(self) -> Resources:
        """What they hold together."""
        return Resources.together(attempt.resources for attempt in self.values())

    def held_by_job(self) -> Mapping[str, Resources]:
        """What those of each job hold together; jobs without any are left out."""
        held: dict[str, Resources] = {}
        for attempt in self.values():
            held[attempt.job_id] = held.get(attempt.job_id, NOTHING) + attempt.resources
        return held

    def of(self, job_id: str) -> list[LiveAttempt]:
        """A job's."""
        return [attempt for attempt in self.values() if attempt.job_id == job_id]
