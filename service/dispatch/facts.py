"""Puts together what :mod:`service.dispatch.policy` decides on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.reports import TrialOutcome
from fixnorm_core.spec import JobSpec
from fixnorm_core.tuning.attributes import CONFIRM, KIND
from fixnorm_core.tuning.recommend import Point, recommend, to_confirm
from service.database.rows import LIVE_ATTEMPT_STATES, AttemptKind, AttemptRow, AttemptState, JobRow
from service.dispatch.attempts import MAX_RETRYABLE_FAILURES
from service.dispatch.limits import Finished, Times, is_overdue
from service.dispatch.live import LiveAttempt
from service.dispatch.policy import JobFacts
from service.dispatch.rests import find_rests
from service.jobs.pauses import time_paused
from service.jobs.reopening import begun_before, failed_before
from service.jobs.views import validation_examples
from service.schemas import JobState
from worker.contracts import RETRIED_FAILURES, UNCHARGED_FAILURES, FailureKind

__all__ = ["gather"]

MAX_GPU_MEMORY_FAILURES = 2
"""A trial that ran out of GPU memory this often says that the job does not fit, unless another trial did."""

_FROM_OUTSIDE = (AttemptState.CANCELLED, AttemptState.LOST)


def gather(
    job: JobRow,
    spec: JobSpec,
    *,
    trials: Sequence[FrozenTrial],
    rows: Sequence[AttemptRow],
    live: Sequence[LiveAttempt],
    sampler_stop: str | None,
    expected: Mapping[Point, float] | None,
    now: datetime,
    retry_wait: timedelta,
) -> JobFacts:
    """What is known of a job, from its row, Optuna's trials, our attempts and those that run."""
    examples, top_k = validation_examples(rows), spec.budget.confirm_top_k
    is_over = job.stop_reason is not None  # before, nobody asks for the best, and comparing all points takes its time
    failed = [row for row in rows if row.state == AttemptState.FAILED]
    evaluations = [row for row in rows if row.kind == AttemptKind.EVALUATE]
    failed_evaluations = [
        row
        for row in evaluations
        if row.state == AttemptState.FAILED and row.failure not in UNCHARGED_FAILURES and row.round == job.round
    ]
    # A full disk pauses a job. One that is stopping goes to its end by itself, so its trials wait for room instead.
    after = RETRIED_FAILURES | ({FailureKind.DISK_FULL} if job.state == JobState.STOPPING else set())
    settled = begun_before(job.search_round, rows)
    recent = [row for row in rows if row.kind == AttemptKind.TRAIN or row.round == job.round]
    rests = find_rests(recent, now=now, first=retry_wait, after=after)
    resting = {
        trial.number: rests[task]
        for trial in trials
        if (task := (AttemptKind.TRAIN, trial.number)) in rests and not trial.state.is_finished()
    }
    begun = {row.id: row.created_at for row in rows}
    running = {attempt: begun[attempt.id] for attempt in live if attempt.id in begun}
    return JobFacts(
        budget=spec.budget.model_copy(update={"parallel_trials": spec.trials_at_once}),
        trials=trials,
        state=JobState(job.state),
        reason=job.reason,
        unstarted=_unstarted(trials, rows),
        live=frozenset(attempt.trial_number for attempt in live if attempt.kind is AttemptKind.TRAIN),
        waits={row.trial_number: row.reason for row in rows if row.reason and row.state in LIVE_ATTEMPT_STATES},
        resting=resting,
        evaluation_rests=next((rest for (kind, _), rest in rests.items() if kind is AttemptKind.EVALUATE), None),
        search_over=job.stop_reason,
        sampler_stop=sampler_stop,
        times=_measure(job, spec, trials, rows, running=running.values(), now=now),
        ended=_ended(trials, rows),
        earlier=begun_before(job.round, rows),
        settled=settled,
        to_retry=failed_before(job.retry_round, trials, rows),
        best=recommend(trials, validation_examples=examples, expected=expected) if is_over else None,
        to_confirm=to_confirm(trials, validation_examples=examples, top_k=top_k, expected=expected, earlier=settled)
        if is_over
        else (),
        evaluating=any(attempt.kind is AttemptKind.EVALUATE for attempt in live),
        evaluated=frozenset(row.trial_number for row in evaluations if row.state == AttemptState.COMPLETE),
        evaluation_hopeless=len(failed_evaluations) >= MAX_RETRYABLE_FAILURES,
        overdue=tuple(each.id for each, begun in running.items() if is_overdue(spec.budget, begun, now)),
        fatal=_fatal(rows, this_round=job.round),
        last_failure=failed[-1].reason if failed else "",
    )


def _unstarted(trials: Sequence[FrozenTrial], rows: Sequence[AttemptRow]) -> frozenset[int]:
    """What was asked for just before a crash, or before the job was paused or stopped."""
    begun = {row.trial_number for row in rows}
    unfinished = {trial.number for trial in trials if trial.state is TrialState.RUNNING}
    return frozenset(unfinished - begun)


def _fatal(rows: Sequence[AttemptRow], *, this_round: int) -> str | None:
    """Why no trial can run. Once one has run, the same failure is bad luck (a disk's, say) and counts as any other."""
    recent = [row for row in rows if row.round == this_round]
    fatal = [row for row in recent if row.failure == FailureKind.FATAL]
    has_trained = any(row.kind == AttemptKind.TRAIN and row.state == AttemptState.COMPLETE for row in rows)
    if not has_trained and (full := [row for row in recent if row.failure == FailureKind.GPU_MEMORY]):
        task, times = Counter((row.kind, row.trial_number) for row in full).most_common(1)[0]
        if times >= MAX_GPU_MEMORY_FAILURES:
            return (
                f"trial {task[1]} ran out of GPU memory {times} times: lower training.batch_size (training.accumulate "
                f"keeps the step's size) or take a smaller model; {full[-1].reason}"
            )
    lasting = [row for row in fatal if row.kind == AttemptKind.EVALUATE or not has_trained]
    return lasting[0].reason if lasting else None


def _measure(
    job: JobRow,
    spec: JobSpec,
    trials: Sequence[FrozenTrial],
    rows: Sequence[AttemptRow],
    *,
    running: Iterable[datetime],
    now: datetime,
) -> Times:
    confirming = {trial.number for trial in trials if trial.user_attrs.get(KIND) == CONFIRM}
    trained = [
        (row.created_at, row.ended_at, row)
        for row in rows
        if row.kind == AttemptKind.TRAIN and row.state in (AttemptState.COMPLETE, AttemptState.PRUNED)
    ]
    searched, lengths, best = [], [], -math.inf
    for created_at, ended_at, row in sorted(trained, key=lambda each: str(each[1])):
        assert ended_at is not None
        accuracy = None  # of a diverged trial, or one that was stopped early
        if row.result is not None and row.result["outcome"] == TrialOutcome.COMPLETE:
            accuracy = row.result["validation_accuracy"]
            lengths.append(max(ended_at - created_at, timedelta(0)))
        if row.trial_number in confirming:
            continue
        if row.round == job.round:
            searched.append(Finished(ended_at, accuracy))
        elif accuracy is not None:
            best = max(best, accuracy)
    return Times.measure(
        started_at=job.reopened_at or job.started_at,
        now=now,
        paused=lambda since: time_paused(job.pauses, since=since, now=now),
        is_paused=job.state == JobState.PAUSED,
        searched=searched,
        lengths=lengths,
        tolerance=spec.budget.tolerance,
        best=best,
        deadline=spec.budget.deadline,
        attempts=running,
    )


def _ended(trials: Sequence[FrozenTrial], rows: Sequence[AttemptRow]) -> frozenset[int]:
    """The trials whose last attempt did not fail, but was cancelled or lost, and those that were never attempted."""
    last = {row.trial_number: row.state for row in rows if row.kind == AttemptKind.TRAIN}
    return frozenset(trial.number for trial in trials if last.get(trial.number, AttemptState.LOST) in _FROM_OUTSIDE)
