"""What a user may ask of a job beside cancelling it: to pause, to go on, to stop.

Asking moves the job's state, by a guarded write, on whichever server is asked; the dispatcher acts on the state. So a
wish survives a crash of either, and asking twice is asking once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from service.database.engine import Database
from service.database.rows import JobRow
from service.jobs import repository
from service.jobs.states import JOB_MOVES
from service.problems import NotFound, VerbImpossible
from service.schemas import TERMINAL_STATES, JobState

__all__ = ["PAUSE", "RESUME", "STOP", "Verb", "ask", "check_goes_on"]


@dataclass(frozen=True, slots=True)
class Verb:
    """Something that can be asked of a job.

    Attributes:
        done: Its participle, for sentences.
        met: States in which there is nothing left to do.
        to: The state that it leads to.
        reason: The job's, from then on.
    """

    done: str
    met: frozenset[JobState]
    to: Callable[[JobRow], JobState]
    reason: str


PAUSE = Verb(
    "paused",
    frozenset({JobState.PAUSED}),
    lambda _: JobState.PAUSED,
    "paused by request: what runs may finish, nothing else starts",
)
RESUME = Verb(
    "resumed",
    frozenset({JobState.QUEUED, JobState.RUNNING}),
    lambda job: JobState.QUEUED if job.started_at is None else JobState.RUNNING,
    "resumed by request",
)
STOP = Verb(
    "stopped",
    TERMINAL_STATES | {JobState.STOPPING},
    lambda _: JobState.STOPPING,
    "stopping by request: what runs may finish, then the best so far is the result",
)


def ask(verb: Verb, job_id: str, *, database: Database, now: datetime) -> None:
    """Moves a job to where a verb leads; one that is there already stays as it is.

    Raises:
        NotFound: If there is no such job.
        VerbImpossible: If the verb has no meaning in the job's state.
    """
    while not _try(
        verb, job_id, database=database, now=now
    ):  # the dispatcher moved it meanwhile, to a state nearer its end
        pass


def check_goes_on(job: JobRow, done: str) -> None:
    """Refuses what a job that is being stopped or cancelled has no room for; ``done`` is the verb's participle.

    Raises:
        VerbImpossible: For such a job. One that has ended is let pass.
    """
    if job.state == JobState.STOPPING or (job.cancel_requested and job.state not in TERMINAL_STATES):
        raise _impossible(done, job)


def _try(verb: Verb, job_id: str, *, database: Database, now: datetime) -> bool:
    with database.write.begin() as session:
        job = repository.find_job(session, job_id)
        if job is None:
            raise NotFound.job(job_id)
        origin, to = JobState(job.state), verb.to(job)
        if origin in verb.met:
            return True
        if job.cancel_requested or origin in TERMINAL_STATES or to not in JOB_MOVES[origin]:
            raise _impossible(verb.done, job)
        return repository.move_job(session, job_id, origin, to, now=now, reason=verb.reason)


def _impossible(done: str, job: JobRow) -> VerbImpossible:
    if job.state in TERMINAL_STATES:
        return VerbImpossible(
            f"{job.id} is {job.state}, and a job that has ended cannot be {done}",
            f"'fixnorm-tune show {job.id}' shows what it found, 'fixnorm-tune extend {job.id} --trials 5' goes on",
        )
    if job.cancel_requested:
        return VerbImpossible(
            f"{job.id} is {job.state} and being cancelled, so it cannot be {done}",
            "Wait for its end; then 'fixnorm-tune extend' goes on with it",
        )
    return VerbImpossible(
        f"{job.id} is {job.state}: it starts no trials any more, so it cannot be {done}",
        f"Wait for its end, or end it now with 'fixnorm-tune cancel {job.id}'",
    )
