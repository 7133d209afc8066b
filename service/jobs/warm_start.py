"""From the ids of finished jobs to what they have learned, which is stored with the new job."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optuna.trial import FrozenTrial
from pydantic import ValidationError

from fixnorm_core.errors import SpecError
from fixnorm_core.explain import explain
from fixnorm_core.spec import JobSpec, Summary
from fixnorm_core.tuning.warm_start import summarize
from service.database.engine import Database
from service.database.rows import JobRow
from service.jobs import repository
from service.jobs.amended import spec_of
from service.problems import NoResultYet
from service.schemas import TERMINAL_STATES, BestView

__all__ = ["Trials", "summary_of", "with_summaries"]

Trials = Callable[[JobRow], Sequence[FrozenTrial]]


def summary_of(job: JobRow, *, trials: Trials) -> Summary:
    """What a job has learned.

    Raises:
        NoResultYet: If it has not ended, or ended without a result.
    """
    if job.result is None:
        if job.state in TERMINAL_STATES:
            way_out = "The job has ended, so there will be none: take another job"
        else:
            way_out = "Wait until it has ended"
        raise NoResultYet(f"{job.id} is {job.state} and has no result to learn from ({job.reason})", way_out)
    best = BestView.model_validate(job.result)
    spec = spec_of(job)
    return summarize(spec, trials(job), job=job.id, params=best.params, accuracy=best.validation_accuracy)


def with_summaries(spec: JobSpec, *, database: Database, trials: Trials) -> JobSpec:
    """The job with what the jobs of its ``search.warm_start`` have learned in place of their ids.

    Raises:
        SpecError: If there is no such job, it has no result, or what it has learned says nothing for this one.
    """
    if not any(isinstance(one, str) for one in spec.search.warm_start):
        return spec
    parents = [_summary(one, database, trials) if isinstance(one, str) else one for one in spec.search.warm_start]
    document = spec.model_dump()
    document["search"]["warm_start"] = parents
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        rules = "; ".join(
            f"{broken.field}: {broken.rule}" if broken.field else broken.rule for broken in explain(error)
        )
        raise SpecError(rules, "Correct search.warm_start, or leave it out") from error


def _summary(job_id: str, database: Database, trials: Trials) -> Summary:
    with database.read() as session:
        job = repository.find_job(session, job_id)
    if job is None:
        raise SpecError(
            f"search.warm_start names {job_id!r}, and there is no such job",
            "`fixnorm-tune list` shows all jobs; the command line reads a file (a name with '/' or ending with .json)",
        )
    try:
        return summary_of(job, trials=trials)
    except NoResultYet as error:
        raise SpecError(f"search.warm_start: {error.rule}", f"{error.way_out}, or leave it out") from error
