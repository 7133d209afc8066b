"""What a committed attempt says to Optuna."""

from __future__ import annotations

from fixnorm_core.reports import TrialResult
from service.database.rows import AttemptRow, AttemptState
from service.studies.studies import StudyHandle

__all__ = ["tell_result"]


def tell_result(study: StudyHandle, row: AttemptRow) -> None:
    """Tells Optuna a committed result of training; a trial that is finished already stays as it is."""
    if row.state == AttemptState.PRUNED:
        study.tell_pruned(row.trial_number)
    if row.state == AttemptState.COMPLETE and row.result is not None:
        study.tell(row.trial_number, TrialResult.model_validate(row.result, extra="ignore"))
