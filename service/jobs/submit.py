"""Takes a job in: everything is checked before anything is stored, so that a refused job leaves nothing behind."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy.exc import IntegrityError

from fixnorm_core.code import named_by_code
from fixnorm_core.data.catalog import check_data
from fixnorm_core.errors import DataError, ModelError, SpecError
from fixnorm_core.models.catalog import check_method, check_model
from fixnorm_core.own import check_own, is_own
from fixnorm_core.reach import Reach
from fixnorm_core.spec import JobSpec, moment_text
from service.database.engine import Database
from service.database.rows import JobRow
from service.events.records import record
from service.jobs import repository
from service.jobs.files import JobFiles
from service.jobs.warm_start import Trials, with_summaries
from service.problems import KeyReused, ResourcesNeverFree
from service.queue.share import UNLIMITED
from service.schemas import EventKind, JobState
from service.trackers import positions
from worker.contracts import Node, Resources
from worker.room import Room

__all__ = ["check", "check_deadline", "check_reach", "submit"]


def submit(
    spec: JobSpec,
    *,
    database: Database,
    trials: Trials,
    images: Path,
    reach: Reach,
    files: JobFiles,
    nodes: Sequence[Node],
    user_max: Resources = UNLIMITED,
    trackers: Sequence[str] = (),
    key: str | None,
    now: datetime,
) -> tuple[JobRow, bool]:
    """Stores a job.

    Args:
        spec: As sent.
        database: Ours.
        trials: Tells the trials of a job that ``search.warm_start`` names.
        images: Where relative data paths are looked up.
        reach: What the job may read.
        files: Where a Python file that comes with it is kept.
        nodes: The machines that trials can run on.
        user_max: All that those of one user can.
        trackers: Names of the trackers that are told of the job.
        key: Idempotency key; a second job with the same key is the first one.
        now: The time.

    Returns:
        The job, and whether it is new.

    Raises:
        ModelError: For an unknown model or option, or a model that the method cannot tune.
        OutsideRoots: For data out of reach.
        DataError: For an unknown data set, or a folder that is not one.
        SpecError: For a Python file where none may come; for a warm start from a job that does not exist, has no
            result or tuned something else; for a deadline that has passed.
        ResourcesNeverFree: If a trial could never be placed.
        KeyReused: If the key came with another spec before.
        BucketDown: If a Python file is kept in an object store that does not answer.
    """
    code = spec.code
    if reach.code is not None:
        files.have_code(spec, folder=Path(reach.code))
    spec = check(spec, database=database, trials=trials, images=images, reach=reach, nodes=nodes, user_max=user_max)
    if code is not None and reach.code is not None:
        files.keep_code(code, folder=Path(reach.code))
    try:
        with database.write.begin() as session:
            if key is not None and (earlier := repository.find_by_key(session, key)) is not None:
                return _same(earlier, spec), False
            check_deadline(spec, now)
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
            positions.enroll(session, job.id, trackers)
        return job, True
    except IntegrityError:  # the same key, sent twice at once: the other one won
        assert key is not None
        with database.read() as session:
            earlier = repository.find_by_key(session, key)
        assert earlier is not None
        return _same(earlier, spec), False


def check(
    spec: JobSpec,
    *,
    database: Database,
    trials: Trials,
    images: Path,
    reach: Reach,
    nodes: Sequence[Node],
    user_max: Resources = UNLIMITED,
) -> JobSpec:
    """Checks all of a job but its deadline, which an earlier one of the same key may have met; stores nothing.

    Arguments and errors are those of :func:`submit`.

    Returns:
        The job as it is stored: its data found, its warm starts read, a file that came with it named by its digest.
    """
    spec = named_by_code(spec, reach=reach)
    check_model(spec.model, reach=reach)
    check_method(spec.model, spec.search.method)
    spec = spec.model_copy(update={"data": check_data(spec.data, root=images, reach=reach)})
    spec = with_summaries(spec, database=database, trials=trials)
    _check_resources(Resources.of(spec.resources), nodes, user_max)
    return spec


def check_reach(spec: JobSpec, reach: Reach) -> None:
    """Refuses a job that was taken in when more was allowed.

    Raises:
        OutsideRoots: Its data are out of reach.
        ModelError: The module of its model may not be imported.
        DataError: Likewise that of its data set.
    """
    if is_own(spec.model.name):
        check_own(spec.model.name, reach=reach, refusal=ModelError)
    if is_own(spec.data.name):
        check_own(spec.data.name, reach=reach, refusal=DataError)
    if spec.data.path is not None:
        reach.roots.confine(spec.data.path)


def _same(earlier: JobRow, spec: JobSpec) -> JobRow:
    if JobSpec.from_stored(earlier.spec) != spec:
        raise KeyReused(
            f"idempotency key {earlier.idempotency_key!r} belongs to {earlier.id}, which is another job",
            "Send another key, or the same job",
        )
    return earlier


def check_deadline(spec: JobSpec, now: datetime) -> None:
    """Refuses a deadline that has passed.

    Raises:
        SpecError: It has.
    """
    if (deadline := spec.budget.deadline) is not None and deadline <= now:
        raise SpecError(
            f"budget.deadline is {moment_text(deadline)}, and it is {moment_text(now)} already",
            "Give a later one, or leave it out",
        )


def _at_most(total: float) -> str:
    return f"Ask for at most {total:g}" if total else "Set it to 0"


def _check_resources(needed: Resources, nodes: Sequence[Node], user_max: Resources) -> None:
    capacity = Resources.together(node.total for node in nodes)
    for name, field, wanted, total, of_user in (
        ("GPUs", "gpus_per_trial", needed.gpus, capacity.gpus, user_max.gpus),
        ("CPUs", "cpus_per_trial", needed.cpus, capacity.cpus, user_max.cpus),
    ):
        if wanted > total + 1e-9:
            raise ResourcesNeverFree(
                f"resources.{field} is {wanted:g}, but the whole cluster has {total:g} {name}",
                f"{_at_most(total)}, or add nodes {f'with {name} ' if not total else ''}to the cluster",
            )
        if wanted > of_user + 1e-9:
            raise ResourcesNeverFree(
                f"resources.{field} is {wanted:g}, but a user's trials hold {of_user:g} {name} together at most",
                f"Ask for at most {of_user:g}, or have the operator raise FIXNORM_USER_MAX_{name.upper()}",
            )
    if not Room.of(nodes).fits(needed):
        sizes = "; ".join(dict.fromkeys(str(node.total) for node in nodes))
        if needed.nodes == 1:
            raise ResourcesNeverFree(
                f"resources ask for {needed}, but a trial runs on one node, and none has that much: they have {sizes}",
                "Ask for what one node has, have the trial's ranks on several (nodes_per_trial), or add a larger node "
                "to the cluster",
            )
        raise ResourcesNeverFree(
            f"resources ask for {needed}, and there are not {needed.nodes} nodes with {needed.on_one_node} each: of "
            f"{len(nodes)} they have {sizes}",
            "Ask for fewer or smaller ones, or add nodes to the cluster",
        )
