"""Having a job go on for longer than it would: with more trials, or once more with those that failed.

A job whose search was over, or that has ended, is *reopened*: a new round of it begins. Its trials, their results and
its budget stay what they are; whatever ended it or its search (failures, limits of time and of progress, a target
reached) is looked for in the new round alone, or it would end at once for the same reason. Like any verb this is one
guarded write, on whichever server is asked; the dispatcher acts on what is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from fixnorm_core.spec import BudgetSpec
from fixnorm_core.tuning.attributes import CONFIRM, KIND, RETRIES
from service.database.engine import Database
from service.database.rows import AttemptKind, AttemptRow, AttemptState, JobRow
from service.events.records import has_recorded
from service.jobs import repository
from service.jobs.amended import amend, spec_of
from service.jobs.verbs import check_goes_on
from service.jobs.warm_start import Trials
from service.problems import NotFound, VerbImpossible
from service.schemas import TERMINAL_STATES, JobState
from service.trackers import positions

__all__ = ["CUT_OFF", "begun_before", "extend", "failed_before", "retry"]

CUT_OFF = "the job has failed"
"""Why an attempt was ended whose job failed by others: when those are tried again, so is its trial."""

_CHARGED = (TrialState.COMPLETE, TrialState.PRUNED)


def extend(job_id: str, trials: int, *, database: Database, key: str | None, now: datetime) -> None:
    """Adds trials to a job's budget. One whose search was over searches on, whatever its sampler thinks of that.

    Args:
        job_id: The job.
        trials: How many more.
        database: Ours.
        key: Idempotency key; a second request with the same key changes nothing.
        now: The time.

    Raises:
        NotFound: If there is no such job.
        VerbImpossible: If the job is being stopped or cancelled.
    """
    told = f"extended.{hashlib.sha256(key.encode()).hexdigest()[:40]}" if key is not None else None
    with database.write.begin() as session:
        job = repository.take_job(session, job_id)
        if job is None:
            raise NotFound.job(job_id)
        if told is not None and has_recorded(session, job_id, told):
            return
        check_goes_on(job, "extended")
        was_over = job.stop_reason is not None
        budget = _without_past_deadline(spec_of(job).budget, now=now)
        changed: dict[str, Any] = {"max_trials": budget.max_trials + trials}
        if was_over:
            changed["stop_early"] = False
        budget = budget.model_copy(update=changed)
        more = "1 trial" if trials == 1 else f"{trials} trials"
        values: dict[str, Any] = {
            "amended": amend(job, budget=budget),
            "amendments": job.amendments + 1,
            "reason": f"extended by {more} to {budget.max_trials} by request",
        }
        if was_over or job.state in TERMINAL_STATES:
            values |= _reopened(job, now=now)
        if was_over:
            values |= {"stop_reason": None, "search_round": job.round + 1}
        _go_on(session, job, values, now=now, key=told)


def retry(job_id: str, *, database: Database, trials: Trials, now: datetime) -> None:
    """Has what failed of a job done again: its failed trials as new ones at the same points, or its evaluation.

    Failures of before no longer count. Asked twice, it changes nothing the second time.

    Args:
        job_id: The job.
        database: Ours.
        trials: Tells a job's trials.
        now: The time.

    Raises:
        NotFound: If there is no such job.
        VerbImpossible: If the job is being stopped or cancelled, or if it has ended and nothing of it failed, or no
            trial is left to it.
    """
    with database.read() as session:
        job = repository.find_job(session, job_id)
    if job is None:
        raise NotFound.job(job_id)
    known = trials(job)
    with database.write.begin() as session:
        job = repository.take_job(session, job_id)
        if job is None:
            raise NotFound.job(job_id)
        check_goes_on(job, "retried")
        rows = repository.attempts_of(session, [job_id])
        failed = failed_before(job.round + 1, known, rows)
        new = set(failed) - set(failed_before(job.retry_round, known, rows))
        if job.state not in TERMINAL_STATES and not new:
            return
        if job.state in (JobState.SUCCEEDED, JobState.CANCELLED) and not failed:
            raise VerbImpossible(
                f"{job_id} is {job.state} and has no failed trial that was not tried again",
                f"'fixnorm-tune extend {job_id} --trials 5' goes on with it",
            )
        budget = _without_past_deadline(spec_of(job).budget, now=now)
        left = budget.max_trials - sum(trial.state in _CHARGED for trial in known)
        if job.state == JobState.SUCCEEDED and left <= 0:
            raise VerbImpossible(
                f"{job_id} has used up its budget.max_trials: others were trained in place of the trials that failed",
                f"'fixnorm-tune extend {job_id} --trials {len(failed)}' gives it more",
            )
        values: dict[str, Any] = {
            "amended": amend(job, budget=budget),
            "amendments": job.amendments + 1,
            "round": job.round + 1,
            "retry_round": job.round + 1,
            "reason": "what failed is tried again by request",
        }
        has_complete = any(trial.state is TrialState.COMPLETE for trial in known)
        to_search = job.stop_reason is not None and left > 0 and (bool(failed) or not has_complete)
        if to_search or job.state in TERMINAL_STATES:
            values |= _reopened(job, now=now)
        if to_search:
            values |= {"stop_reason": None, "search_round": job.round + 1}
        _go_on(session, job, values, now=now)


def begun_before(round_: int, rows: Sequence[AttemptRow]) -> frozenset[int]:
    """The trials that were begun in an earlier round than that one."""
    first: dict[int, int] = {}
    for row in rows:
        first[row.trial_number] = min(row.round, first.get(row.trial_number, row.round))
    return frozenset(number for number, begun in first.items() if begun < round_)


def failed_before(round_: int, trials: Sequence[FrozenTrial], rows: Sequence[AttemptRow]) -> tuple[int, ...]:
    """The search trials that were begun before a round, have failed, and have not been tried again as others.

    One that was ended as its job failed by others counts too: it would be missing for their fault. One that was ended
    by a limit, or with a cancelled job, does not. Confirming runs are made again anyway.
    """
    begun = begun_before(round_, rows)
    last = {row.trial_number: row for row in rows if row.kind == AttemptKind.TRAIN}
    tried = {trial.user_attrs.get(RETRIES) for trial in trials}
    return tuple(
        trial.number
        for trial in trials
        if trial.state is TrialState.FAIL
        and trial.number in begun
        and trial.number not in tried
        and trial.number in last
        and _has_failed(last[trial.number])
        and trial.user_attrs.get(KIND) != CONFIRM
    )


def _has_failed(attempt: AttemptRow) -> bool:
    return attempt.state == AttemptState.FAILED or (
        attempt.state == AttemptState.CANCELLED and attempt.reason == CUT_OFF
    )


def _without_past_deadline(budget: BudgetSpec, *, now: datetime) -> BudgetSpec:
    """Whoever has a job go on after its deadline does not mean it to end at once."""
    is_past = budget.deadline is not None and budget.deadline <= now
    return budget.model_copy(update={"deadline": None}) if is_past else budget


def _reopened(job: JobRow, *, now: datetime) -> dict[str, Any]:
    """What a new round begins with. The result stays until the next end puts another in its place."""
    began = now if job.started_at is not None else None
    return {"round": job.round + 1, "reopened_at": began, "ended_at": None, "cancel_requested": False}


def _go_on(session: Session, job: JobRow, values: dict[str, Any], *, now: datetime, key: str | None = None) -> None:
    origin = JobState(job.state)
    if origin in TERMINAL_STATES:
        positions.reopen(session, job.id)
        to = JobState.QUEUED if job.started_at is None else JobState.RUNNING
        moved = repository.move_job(session, job.id, origin, to, now=now, key=key, **values)
    else:
        moved = repository.update_job(session, job.id, origin, key=key, **values)
    assert moved  # it was taken
