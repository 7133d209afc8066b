"""A study's trials as the belief reads them: observed, pending and unplaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.tuning.attributes import DIVERGED, PREDICTED
from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.belief import Observations

__all__ = ["History"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class History:
    """All trials of a study but one, ordered by number.

    Attributes:
        observations: Complete and diverged trials, and pruned ones at the value that was predicted for them.
        pending: (m, d), points whose value is not known: running trials, and failed ones or pruned ones without a
            prediction, which are not worth a second visit but say nothing about the surface.
        unplaced: Numbers of earlier running trials that have not been given their knobs yet.
    """

    observations: Observations
    pending: Array
    unplaced: tuple[int, ...]

    @classmethod
    def read(cls, study: Study, axes: Axes, *, before: int | None = None) -> History:
        """Reads a study on behalf of trial number ``before``, which is left out itself; None takes every trial."""
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number != before]
        placed = [trial for trial in trials if axes.hold(trial.params)]
        observed = [trial for trial in placed if _is_observed(trial)]
        pending = [trial for trial in placed if trial.state != TrialState.WAITING and not _is_observed(trial)]
        unplaced = tuple(
            trial.number
            for trial in trials
            if trial.state == TrialState.RUNNING
            and not axes.hold(trial.params)
            and before is not None
            and trial.number < before
        )
        return cls(_observations(observed, axes, study.direction), _points(pending, axes), unplaced)


def _is_observed(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and PREDICTED in trial.user_attrs):
        return True
    return trial.state.is_finished() and bool(trial.user_attrs.get(DIVERGED, False))


def _value(trial: FrozenTrial) -> float | None:
    return trial.value if trial.state == TrialState.COMPLETE else trial.user_attrs.get(PREDICTED)


def _observations(trials: Sequence[FrozenTrial], axes: Axes, direction: StudyDirection) -> Observations:
    sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
    values = [_value(trial) for trial in trials]
    return Observations(
        points=_points(trials, axes),
        values=sign * np.array([np.nan if value is None else value for value in values], dtype=float),
        diverged=np.array([bool(trial.user_attrs.get(DIVERGED, False)) for trial in trials], dtype=bool),
    )


def _points(trials: Sequence[FrozenTrial], axes: Axes) -> Array:
    return axes.points([trial.params for trial in trials])
