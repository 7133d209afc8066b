"""What holds of a job now: its spec as submitted, with what was changed of it since.

The submitted spec itself is never changed: an idempotency key belongs to it.
"""

from __future__ import annotations

from typing import Any

from fixnorm_core.spec import BudgetSpec, JobSpec, ShareSpec
from service.database.rows import JobRow

__all__ = ["amend", "spec_of", "stored_spec"]


def spec_of(job: JobRow) -> JobSpec:
    """A job's spec as it holds now."""
    return JobSpec.from_stored(stored_spec(job))


def stored_spec(job: JobRow) -> dict[str, Any]:
    """The same as it is stored, for whoever needs a part of it often."""
    return {**job.spec, **(job.amended or {})}


def amend(job: JobRow, *, budget: BudgetSpec | None = None, share: ShareSpec | None = None) -> dict[str, Any]:
    """What is to be stored as a job's ``amended`` for another budget or share; None leaves either as it is."""
    changed = {name: part.model_dump(mode="json") for name, part in (("budget", budget), ("share", share)) if part}
    return {**(job.amended or {}), **changed}
