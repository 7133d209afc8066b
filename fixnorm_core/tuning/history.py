"""A study's trials as the belief reads them: observed, pending and unplaced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.tuning.attributes import DIVERGED, PREDICTED, RUNG
from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.belief import Observations
from fixnorm_core.tuning.rungs import Rung

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
        rung: All trials that have got to the step at which some were stopped (:data:`.attributes.RUNG`), at that step;
            None if none was.
    """

    observations: Observations
    pending: Array
    unplaced: tuple[int, ...]
    rung: Rung | None

    @classmethod
    def read(cls, study: Study, axes: Axes, *, before: int | None = None) -> History:
        """Reads a study on behalf of trial number ``before``, which is left out itself; None takes every trial."""
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number != before]
        placed = [trial for trial in trials if axes.hold(trial.params)]
        observed = [trial for trial in placed if _is_observed(trial)]
        pending = [trial for trial in placed if trial.state != TrialState.WAITING and not _is_known(trial)]
        unplaced = tuple(
            trial.number
            for trial in trials
            if trial.state == TrialState.RUNNING
            and not axes.hold(trial.params)
            and before is not None
            and trial.number < before
        )
        rung = _rung(placed, axes, sign=1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0)
        return cls(_observations(observed, axes, study.direction), _points(pending, axes), unplaced, rung)


def _is_observed(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and PREDICTED in trial.user_attrs):
        return True
    return trial.state.is_finished() and bool(trial.user_attrs.get(DIVERGED, False))


def _is_known(trial: FrozenTrial) -> bool:
    return _is_observed(trial) or (trial.state == TrialState.PRUNED and RUNG in trial.user_attrs)


def _rung(trials: Sequence[FrozenTrial], axes: Axes, *, sign: float) -> Rung | None:
    step = max((trial.user_attrs[RUNG] for trial in trials if RUNG in trial.user_attrs), default=None)
    if step is None:
        return None
    reached = [trial for trial in trials if max(trial.intermediate_values, default=-math.inf) >= step]
    levels = [(trial, _level(trial, step, sign=sign)) for trial in reached]
    known = [(trial, level) for trial, level in levels if math.isfinite(level)]
    return Rung(_points([trial for trial, _ in known], axes), np.array([level for _, level in known]))


def _level(trial: FrozenTrial, step: int, *, sign: float) -> float:
    """The best value up to a step, times ``sign``; minus infinity when none is finite."""
    values = [sign * value for at, value in trial.intermediate_values.items() if at <= step and math.isfinite(value)]
    return max(values, default=-math.inf)


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
