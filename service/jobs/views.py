"""Rows and Optuna's trials as the API shows them. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from fixnorm_core.buckets import is_url
from fixnorm_core.reports import ClassEvaluation, Evaluation, TrialResult
from fixnorm_core.spec import JobSpec, warm_starts_of
from fixnorm_core.tuning.attributes import CONFIRM, DIVERGED, KIND, SEED
from fixnorm_core.tuning.recommend import Point, Recommendation, recommend
from service.database.rows import LIVE_ATTEMPT_STATES, AttemptKind, AttemptRow, AttemptState, DeliveryRow, JobRow
from service.jobs.amended import spec_of
from service.jobs.folders import moved
from service.queue.places import ordinal
from service.schemas import TERMINAL_STATES, BestView, CandidateView, JobState, JobView, Progress, TrialState, TrialView
from service.webhooks.schemas import WebhookState, WebhookView
from worker.contracts import UNCHARGED_FAILURES

__all__ = [
    "best_so_far",
    "best_view",
    "class_evaluation_of",
    "epochs_saved",
    "evaluation_of",
    "job_view",
    "result_of",
    "trial_views",
    "validation_examples",
    "with_places",
]


def job_view(
    job: JobRow,
    *,
    attempts: Sequence[AttemptRow],
    best: BestView | None,
    place: int | None = None,
    delivery: DeliveryRow | None = None,
) -> JobView:
    """A job with its progress, counted from its attempts, and its place among those that wait for room.

    Its webhook's outcome is that of ``delivery``, what is or was to be told of its last end.
    """
    spec = spec_of(job)
    kept, former = BestView.model_validate(job.result) if job.result is not None else None, None
    if kept is not None and job.state in TERMINAL_STATES:
        best = kept
    else:
        former = kept
    return JobView(
        id=job.id,
        name=job.name,
        user=spec.share.user,
        state=JobState(job.state),
        reason=job.reason if place is None else f"{job.reason}; {ordinal(place)} in the queue",
        place=place,
        stop_reason=job.stop_reason,
        created_at=job.created_at,
        started_at=job.started_at,
        reopened_at=job.reopened_at,
        ended_at=job.ended_at,
        spec=spec,
        progress=_progress(spec, attempts),
        best=best,
        former=former,
        notes=tuple(one.note for one in warm_starts_of(spec.search, training=spec.training)),
        dashboard=f"/dashboard/studies/{job.study_id}" if job.study_id is not None else None,
        webhook=_webhook(job, spec.webhook, delivery) if spec.webhook is not None else None,
    )


def _webhook(job: JobRow, url: str, delivery: DeliveryRow | None) -> WebhookView:
    if delivery is None or job.state not in TERMINAL_STATES:  # of an end before that, if of any
        return WebhookView(url=url, state=WebhookState.PROMISED)
    state = WebhookState.GIVEN_UP if delivery.due_at is None else WebhookState.WAITING
    return WebhookView(
        url=delivery.url,
        state=WebhookState.DELIVERED if delivery.delivered_at is not None else state,
        tries=delivery.tries,
        next_try_at=delivery.due_at,
        delivered_at=delivery.delivered_at,
        error=delivery.error,
    )


def with_places(job: JobView, *, state_dir: Path) -> JobView:
    """The job with its files named where they are now: the state folder may have been restored under another path."""
    best, former = (_placed(view, job.id, state_dir) if view is not None else None for view in (job.best, job.former))
    return job.model_copy(update={"best": best, "former": former})


def _placed(best: BestView, job_id: str, state_dir: Path) -> BestView:
    named = {"weights": best.weights, "report": best.report}
    paths = {name: place for name, place in named.items() if place is not None and not is_url(place)}
    found = {name: moved(place, state_dir=state_dir, job_id=job_id) for name, place in paths.items()}
    return best.model_copy(update={name: str(path) for name, path in found.items() if path is not None})


def trial_views(
    spec: JobSpec, trials: Sequence[FrozenTrial], *, attempts: Sequence[AttemptRow], now: datetime
) -> list[TrialView]:
    """A job's trials by number; those that only wait in Optuna's queue are left out."""
    return [
        _trial_view(spec, trial, [row for row in attempts if _trains(row, trial.number)], now=now)
        for trial in trials
        if trial.state is not OptunaState.WAITING
    ]


def best_so_far(
    spec: JobSpec,
    trials: Sequence[FrozenTrial],
    *,
    attempts: Sequence[AttemptRow],
    expected: Mapping[Point, float] | None = None,
) -> BestView | None:
    """The point that would be recommended now, given what the sampler expects."""
    best = recommend(trials, validation_examples=validation_examples(attempts), expected=expected)
    if best is None:
        return None
    return best_view(best, attempts=attempts, saved=epochs_saved(spec, trials))


def epochs_saved(spec: JobSpec, trials: Sequence[FrozenTrial]) -> int:
    """Epochs that trials did not train because they were stopped early."""
    pruned = [trial for trial in trials if trial.state is OptunaState.PRUNED]
    return sum(spec.training.epochs - len(trial.intermediate_values) for trial in pruned)


def best_view(best: Recommendation, *, attempts: Sequence[AttemptRow], saved: int = 0) -> BestView:
    """A recommendation with the weights of its best run, and the epochs that were saved on the way."""
    result = result_of(best.best_run, attempts=attempts)
    return BestView(
        **_judgement(best),
        weights_trial=best.best_run,
        weights=result.weights if result is not None else None,
        weights_accuracy=max(best.accuracies, default=None),
        run_accuracies=best.accuracies,
        disagree=best.disagree,
        epochs_saved=saved,
        runner_up=CandidateView(**_judgement(best.runner_up)) if best.runner_up is not None else None,
        told_apart=best.told_apart,
        largest_class_share=result.largest_class_share if result is not None else None,
    )


def _judgement(point: Recommendation) -> dict[str, Any]:
    return {
        "params": dict(point.params),
        "validation_accuracy": point.mean,
        "standard_error": point.standard_error,
        "standard_error_source": point.source,
        "runs": point.runs,
        "trials": point.trials,
        "confirmed": point.confirmed,
        "expected_accuracy": point.expected,
    }


def result_of(trial_number: int, *, attempts: Sequence[AttemptRow]) -> TrialResult | None:
    """What training a trial left; None while it has not ended well."""
    stored = _stored(AttemptKind.TRAIN, attempts, trial_number)
    return TrialResult.model_validate(stored, extra="ignore") if stored is not None else None


def evaluation_of(trial_number: int, *, attempts: Sequence[AttemptRow]) -> Evaluation | None:
    """What evaluating a trial's weights on the test split gave."""
    stored = _stored(AttemptKind.EVALUATE, attempts, trial_number)
    return Evaluation.model_validate(stored, extra="ignore") if stored is not None else None


def class_evaluation_of(trial_number: int, *, attempts: Sequence[AttemptRow]) -> ClassEvaluation | None:
    """The same, class by class; None too where that was not counted."""
    stored = _stored(AttemptKind.EVALUATE, attempts, trial_number)
    if stored is None or "classes" not in stored:
        return None
    return ClassEvaluation.model_validate(stored, extra="ignore")


def validation_examples(attempts: Sequence[AttemptRow]) -> int | None:
    """Size of the validation split, as the first finished trial told it."""
    stored = _stored(AttemptKind.TRAIN, attempts)
    return int(stored["validation_examples"]) if stored is not None else None


def _stored(
    kind: AttemptKind, attempts: Sequence[AttemptRow], trial_number: int | None = None
) -> dict[str, Any] | None:
    """The first stored result of that kind, of one trial or of any."""
    return next(
        (
            row.result
            for row in attempts
            if row.kind == kind and row.result is not None and trial_number in (None, row.trial_number)
        ),
        None,
    )


def _trains(row: AttemptRow, number: int) -> bool:
    return row.kind == AttemptKind.TRAIN and row.trial_number == number


def _progress(spec: JobSpec, attempts: Sequence[AttemptRow]) -> Progress:
    last = {row.trial_number: row for row in attempts if row.kind == AttemptKind.TRAIN}
    states = [row.state for row in last.values()]
    failed = [row for row in last.values() if row.state == AttemptState.FAILED]
    return Progress(
        finished=states.count(AttemptState.COMPLETE) + states.count(AttemptState.PRUNED),
        pruned=states.count(AttemptState.PRUNED),
        running=sum(state in LIVE_ATTEMPT_STATES for state in states),
        failed=sum(row.failure not in UNCHARGED_FAILURES for row in failed),  # after the others it goes on
        max_trials=spec.budget.max_trials,
    )


def _trial_view(spec: JobSpec, trial: FrozenTrial, attempts: Sequence[AttemptRow], *, now: datetime) -> TrialView:
    state = _state(trial, attempts)
    kind: Literal["search", "confirm"] = "confirm" if trial.user_attrs.get(KIND) == CONFIRM else "search"
    tells = state in (TrialState.FAILED, TrialState.CANCELLED, TrialState.PRUNED)
    waits = state is TrialState.RUNNING and bool(attempts) and attempts[-1].state in LIVE_ATTEMPT_STATES
    # Never less than none: while no server ran, the clock may have been set back
    seconds = sum(max(0.0, ((row.ended_at or now) - row.created_at).total_seconds()) for row in attempts)
    return TrialView(
        number=trial.number,
        state=state,
        kind=kind,
        params={knob: float(value) for knob, value in trial.params.items()},
        seed=int(trial.user_attrs.get(SEED, 0)),
        validation_accuracy=trial.value if trial.state is OptunaState.COMPLETE else None,
        curve=tuple(trial.intermediate_values[step] for step in sorted(trial.intermediate_values)),
        epochs=spec.training.epochs,
        reason=(attempts[-1].reason if attempts else "it was never trained") if tells or waits else "",
        attempts=len(attempts),
        seconds=seconds if attempts else None,
    )


def _state(trial: FrozenTrial, attempts: Sequence[AttemptRow]) -> TrialState:
    if trial.state is OptunaState.COMPLETE:
        return TrialState.DIVERGED if trial.user_attrs.get(DIVERGED) else TrialState.COMPLETE
    if trial.state is OptunaState.PRUNED:
        return TrialState.PRUNED
    if trial.state is OptunaState.FAIL:
        failed = attempts and attempts[-1].state == AttemptState.FAILED  # else it was ended, or lost and not resumed
        return TrialState.FAILED if failed else TrialState.CANCELLED
    return TrialState.RUNNING
