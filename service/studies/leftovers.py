"""Trials that Optuna believes unfinished although their job has ended.

A job that ends leaves none. But a server that was suspended between deciding to start a trial and creating it in
Optuna, whose transactions no lease guards, may create it when it wakes up, after another server has ended the job.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna.storages._rdb.models import StudyModel, TrialModel
from optuna.trial import TrialState
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.database.rows import JobRow
from service.schemas import TERMINAL_STATES
from service.studies.mirror import Mirror

__all__ = ["end_leftovers", "studies_left_open"]

_OPEN = (TrialState.RUNNING, TrialState.WAITING)


def studies_left_open(session: Session) -> Sequence[int]:
    """Optuna's numbers of the studies of ended jobs that have unfinished trials; one query for all jobs."""
    query = (
        select(StudyModel.study_id)
        .join(TrialModel, TrialModel.study_id == StudyModel.study_id)
        .join(JobRow, JobRow.id == StudyModel.study_name)
        .where(TrialModel.state.in_(_OPEN), JobRow.state.in_(TERMINAL_STATES))
        .distinct()
    )
    return session.scalars(query).all()


def end_leftovers(storage: Mirror, study_id: int) -> int:
    """Fails the unfinished trials of a study; returns how many those were."""
    storage.forget(study_id)  # it was somebody else who wrote them
    left = storage.get_all_trials(study_id, deepcopy=False, states=_OPEN)
    for trial in left:
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    storage.forget(study_id)
    return len(left)
