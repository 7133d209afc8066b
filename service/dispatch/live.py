"""What runs now."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from service.database.rows import AttemptKind
from worker.contracts import Resources

__all__ = ["LiveAttempt"]

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
