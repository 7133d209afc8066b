"""What a committed attempt says to Optuna, and what the events then say of its trial."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from fixnorm_core.reports import TrialResult
from service.database.rows import LIVE_ATTEMPT_STATES, AttemptRow, AttemptState
from service.events.records import record_ends, record_epochs
from service.jobs.views import trial_views
from service.studies.studies import StudyHandle

__all__ = ["record_trials", "tell_result", "why_refused"]


def tell_result(study: StudyHandle, row: AttemptRow) -> None:
    """Tells Optuna a committed result of training; a trial that is finished already stays as it is."""
    if row.state == AttemptState.PRUNED:
        study.tell_pruned(row.trial_number)
    if row.state == AttemptState.COMPLETE and row.result is not None:
        study.tell(row.trial_number, TrialResult.model_validate(row.result, extra="ignore"))


def record_trials(
    session: Session,
    job_id: str,
    study: StudyHandle,
    trials: Sequence[FrozenTrial],
    *,
    attempts: Sequence[AttemptRow],
    epochs: bool,
    now: datetime,
) -> None:
    """Records the ends of those trials of a job that have ended, and the epochs of those that nobody tells again.

    Args:
        session: The caller's transaction.
        job_id: The job.
        study: Its study.
        trials: Some of it, as Optuna has them.
        attempts: All of the job.
        epochs: Whether those of trials that have not failed are recorded too.
        now: The time.
    """
    for trial in trials:
        if trial.state is TrialState.FAIL or (epochs and trial.state.is_finished()):
            record_epochs(session, job_id, trial.number, trial.intermediate_values)
    record_ends(session, job_id, trial_views(study.spec, trials, attempts=attempts, now=now))


def why_refused(row: AttemptRow | None) -> str:
    """Why news of an attempt that this server does not run changes nothing; ``row`` is what is stored of it."""
    if row is None:
        return "there is no such attempt"
    if row.state in LIVE_ATTEMPT_STATES:
        return "another server has it"
    return f"it is {row.state}: {row.reason or 'its result was taken'}"
