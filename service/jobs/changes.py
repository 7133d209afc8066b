"""Changing what a job gets of the cluster while it waits, runs or is paused; it counts from the next decision on.

The submitted spec stays: what was changed is stored beside it, on whichever server is asked, and the dispatcher decides
by both. Nothing that runs is ended: a job that holds more than its new cap starts nothing until it holds less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from fixnorm_core.errors import SpecError
from fixnorm_core.explain import explain
from fixnorm_core.spec import JobSpec
from service.database.engine import Database
from service.events.records import record
from service.jobs import repository
from service.jobs.amended import amend, spec_of, stored_spec
from service.jobs.verbs import check_goes_on
from service.problems import NotFound, VerbImpossible
from service.schemas import TERMINAL_STATES, EventKind, JobChange, JobState

__all__ = ["change"]


def change(job_id: str, wanted: JobChange, *, database: Database) -> None:
    """Changes a job; what it has already is no change, and tells nobody.

    Raises:
        NotFound: If there is no such job.
        VerbImpossible: If it has ended, or is being stopped or cancelled.
        SpecError: If the change does not fit the rest of the job: a cap that no trial fits in.
    """
    with database.write.begin() as session:
        job = repository.take_job(session, job_id)
        if job is None:
            raise NotFound.job(job_id)
        if job.state in TERMINAL_STATES:
            raise VerbImpossible(
                f"{job.id} is {job.state}, and what a job that has ended gets cannot be changed",
                f"'fixnorm-tune extend {job.id} --trials 5' has it go on; change it then",
            )
        check_goes_on(job, "changed")
        before = spec_of(job)
        after = _changed(stored_spec(job), before, wanted)
        told = [
            *_differences("share", before.share, after.share),
            *_differences("budget", before.budget, after.budget),
        ]
        if not told:
            return
        amended = amend(
            job,
            budget=after.budget if after.budget != before.budget else None,
            share=after.share if after.share != before.share else None,
        )
        state = JobState(job.state)
        repository.update_job(session, job_id, state, amended=amended, amendments=job.amendments + 1)
        record(session, job_id, EventKind.JOB_CHANGED, {"state": state, "reason": f"{', '.join(told)}, by request"})


def _changed(stored: Mapping[str, Any], before: JobSpec, wanted: JobChange) -> JobSpec:
    parts = {
        "share": before.share.model_copy(update=wanted.share.model_dump(exclude_unset=True)),
        "budget": before.budget.model_copy(update=wanted.budget.model_dump(exclude_unset=True)),
    }
    try:
        return JobSpec.from_stored({**stored, **{name: part.model_dump(mode="json") for name, part in parts.items()}})
    except ValidationError as error:
        rules = "; ".join(broken.rule for broken in explain(error))
        raise SpecError(rules, "The job stays as it is; ask for another value") from error


def _differences(part: str, before: BaseModel, after: BaseModel) -> list[str]:
    return [
        f"{part}.{name} is {_text(value)} (was {_text(getattr(before, name))})"
        for name, value in after
        if value != getattr(before, name)
    ]


def _text(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
