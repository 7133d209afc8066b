"""Takes a job in: everything is checked before anything is stored, so that a refused job leaves nothing behind."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy.exc import IntegrityError

from fixnorm_core.data.catalog import check_data
from fixnorm_core.errors import SpecError
from fixnorm_core.models.catalog import check_method, check_model
from fixnorm_core.spec import JobSpec, moment_text
from service.database.engine import Database
from service.database.rows import JobRow
from service.events.records import record
from service.jobs import repository
from service.jobs.warm_start import Trials, with_summaries
from service.problems import KeyReused, ResourcesNeverFree
from service.queue.share import UNLIMITED
from service.schemas import EventKind, JobState
from worker.contracts import Resources

__all__ = ["submit"]


def submit(
    spec: JobSpec,
    *,
    database: Database,
    trials: Trials,
    images: Path,
    nodes: Sequence[Resources],
    user_max: Resources = UNLIMITED,
    key: str | None,
    now: datetime,
) -> tuple[JobRow, bool]:
    """Stores a job.

    Args:
        spec: As sent.
        database: Ours.
        trials: Tells the trials of a job that ``search.warm_start`` names.
        images: Where relative data paths are looked up.
        nodes: What each machine has that trials can ever hold.
        user_max: All that those of one user can.
        key: Idempotency key; a second job with the same key is the first one.
        now: The time.

    Returns:
        The job, and whether it is new.

    Raises:
        ModelError: For an unknown model or option, or a model that the method cannot tune.
        DataError: For an unknown data set, or a folder that is not one.
        SpecError: For a warm start from a job that does not exist, has no result or tuned something else; for a
            deadline that has passed.
        ResourcesNeverFree: If a trial could never be placed.
        KeyReused: If the key came with another spec before.
    """
    check_model(spec.model)
    check_method(spec.model, spec.search.method)
    spec = spec.model_copy(update={"data": check_data(spec.data, root=images)})
    spec = with_summaries(spec, database=database, trials=trials)
    _check_resources(Resources.of(spec.resources), nodes, user_max)
    try:
        with database.write.begin() as session:
            if key is not None and (earlier := repository.find_by_key(session, key)) is not None:
                return _same(earlier, spec), False
            _check_deadline(spec, now)
            job = JobRow(
                id=f"job-{secrets.token_hex(5)}",
                name=spec.name,
                state=JobState.QUEUED,
                reason="waiting for the dispatcher",
                spec=spec.model_dump(mode="json"),
                idempotency_key=key,
                created_at=now,
            )
            session.add(job)
            record(session, job.id, EventKind.JOB_CHANGED, {"state": job.state, "reason": job.reason})
        return job, True
    except IntegrityError:  # the same key, sent twice at once: the other one won
        assert key is not None
        with database.read() as session:
            earlier = repository.find_by_key(session, key)
        assert earlier is not None
        return _same(earlier, spec), False


def _same(earlier: JobRow, spec: JobSpec) -> JobRow:
    if JobSpec.from_stored(earlier.spec) != spec:
        raise KeyReused(
            f"idempotency key {earlier.idempotency_key!r} belongs to {earlier.id}, which is another job",
            "Send another key, or the same job",
        )
    return earlier


def _check_deadline(spec: JobSpec, now: datetime) -> None:
    if (deadline := spec.budget.deadline) is not None and deadline <= now:
        raise SpecError(
            f"budget.deadline is {moment_text(deadline)}, and it is {moment_text(now)} already",
            "Give a later one, or leave it out",
        )


def _check_resources(needed: Resources, nodes: Sequence[Resources], user_max: Resources) -> None:
    capacity = Resources.together(nodes)
    for name, field, wanted, total, of_user in (
        ("GPUs", "gpus_per_trial", needed.gpus, capacity.gpus, user_max.gpus),
        ("CPUs", "cpus_per_trial", needed.cpus, capacity.cpus, user_max.cpus),
    ):
        if wanted > total + 1e-9:
            raise ResourcesNeverFree(
                f"resources.{field} is {wanted:g}, but the whole cluster has {total:g} {name}",
                f"Ask for at most {total:g}, or add nodes to the cluster",
            )
        if wanted > of_user + 1e-9:
            raise ResourcesNeverFree(
                f"resources.{field} is {wanted:g}, but a user's trials hold {of_user:g} {name} together at most",
                f"Ask for at most {of_user:g}, or have the operator raise FIXNORM_USER_MAX_{name.upper()}",
            )
    if not any(needed.fits_in(node) for node in nodes):
        sizes = "; ".join(dict.fromkeys(str(node) for node in nodes))
        raise ResourcesNeverFree(
            f"resources ask for {needed}, but a trial runs on one node, and none has that much: they have {sizes}",
            "Ask for what one node has, or add a larger one to the cluster",
        )
