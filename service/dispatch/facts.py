"""Puts together what :mod:`service.dispatch.policy` decides on."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from fixnorm_core.spec import JobSpec
from fixnorm_core.tuning.recommend import recommend, to_confirm
from service.database.rows import AttemptKind, AttemptRow, AttemptState
from service.dispatch.attempts import MAX_RETRYABLE_FAILURES, LiveAttempt
from service.dispatch.policy import JobFacts
from service.jobs.views import validation_examples
from worker.contracts import FailureKind

__all__ = ["gather"]


def gather(
    spec: JobSpec,
    *,
    trials: Sequence[FrozenTrial],
    rows: Sequence[AttemptRow],
    live: Sequence[LiveAttempt],
    search_over: str | None,
    sampler_stop: str | None,
) -> JobFacts:
    """What is known of a job, from Optuna's trials, our attempts and those that run."""
    examples = validation_examples(rows)
    failed = [row for row in rows if row.state == AttemptState.FAILED]
    evaluations = [row for row in rows if row.kind == AttemptKind.EVALUATE]
    evaluated = [row.trial_number for row in evaluations if row.state == AttemptState.COMPLETE]
    failed_evaluations = [row for row in evaluations if row.state == AttemptState.FAILED]
    return JobFacts(
        budget=spec.budget,
        trials=trials,
        live=frozenset(attempt.trial_number for attempt in live if attempt.kind is AttemptKind.TRAIN),
        search_over=search_over,
        sampler_stop=sampler_stop,
        best=recommend(trials, validation_examples=examples),
        to_confirm=to_confirm(trials, validation_examples=examples),
        evaluating=any(attempt.kind is AttemptKind.EVALUATE for attempt in live),
        evaluated_trial=evaluated[-1] if evaluated else None,
        evaluation_hopeless=len(failed_evaluations) >= MAX_RETRYABLE_FAILURES,
        fatal=_fatal(rows),
        last_failure=failed[-1].reason if failed else "",
    )


def _fatal(rows: Sequence[AttemptRow]) -> str | None:
    """Why no trial can run. Once one has run, the same failure is bad luck (a disk's, say) and counts as any other."""
    fatal = [row for row in rows if row.failure == FailureKind.FATAL]
    has_trained = any(row.kind == AttemptKind.TRAIN and row.state == AttemptState.COMPLETE for row in rows)
    lasting = [row for row in fatal if row.kind == AttemptKind.EVALUATE or not has_trained]
    return lasting[0].reason if lasting else None
