"""A study's trials as the belief reads them: observed, pending and unplaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.distributions import FloatDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.tuning.attributes import DIVERGED
from fixnorm_core.tuning.belief import Observations

__all__ = ["Box", "History"]

Array = npt.NDArray[np.float64]

# Without one of these names any knob may have been the one that was too high.
_CLIFF_NAMES = frozenset({"lr", "learning_rate"})


@dataclass(frozen=True, slots=True)
class Box:
    """The modelled knobs and their ranges, mapped to [0, 1] on a log scale.

    Attributes:
        names: The knobs' names, ``d`` of them.
        low: (d,), each range's lower end.
        high: (d,), each range's upper end.
    """

    names: tuple[str, ...]
    low: Array
    high: Array

    @classmethod
    def of(cls, knobs: Mapping[str, FloatDistribution]) -> Box:
        """The box that log-scaled distributions span."""
        return cls(
            names=tuple(knobs),
            low=np.array([knob.low for knob in knobs.values()]),
            high=np.array([knob.high for knob in knobs.values()]),
        )

    @property
    def cliff_knobs(self) -> npt.NDArray[np.bool_]:
        """(d,), the knobs that can have been too high where training diverged: the learning rate, else any."""
        named = np.array([name in _CLIFF_NAMES for name in self.names])
        return named if named.any() else np.ones(len(self.names), dtype=bool)

    def to_unit(self, params: Mapping[str, float]) -> Array:
        """(d,), where these values lie."""
        values = np.array([params[name] for name in self.names])
        unit: Array = np.log(values / self.low) / np.log(self.high / self.low)
        return unit

    def from_unit(self, point: Array) -> dict[str, float]:
        """The values at ``point`` (d,), inside the ranges, to six digits: more would only look exact."""
        exact = self.low * (self.high / self.low) ** point
        rounded = [float(f"{value:.6g}") for value in exact]
        return dict(zip(self.names, np.clip(rounded, self.low, self.high).tolist(), strict=True))

    def holds(self, trial: FrozenTrial) -> bool:
        """Whether the trial has a positive value for every knob."""
        return all(isinstance(value := trial.params.get(name), (int, float)) and value > 0.0 for name in self.names)


@dataclass(frozen=True, slots=True)
class History:
    """All trials of a study but one, ordered by number.

    Attributes:
        observations: Complete and diverged trials.
        pending: (m, d), points whose value is not known: running trials, and failed or pruned ones, which are not worth
            a second visit but say nothing about the surface.
        unplaced: Numbers of earlier running trials that have not been given their knobs yet.
    """

    observations: Observations
    pending: Array
    unplaced: tuple[int, ...]

    @classmethod
    def read(cls, study: Study, box: Box, *, before: int | None = None) -> History:
        """Reads a study on behalf of trial number ``before``, which is left out itself; None takes every trial."""
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number != before]
        placed = [trial for trial in trials if box.holds(trial)]
        observed = [trial for trial in placed if _is_observed(trial)]
        pending = [trial for trial in placed if trial.state != TrialState.WAITING and not _is_observed(trial)]
        unplaced = tuple(
            trial.number
            for trial in trials
            if trial.state == TrialState.RUNNING
            and not box.holds(trial)
            and before is not None
            and trial.number < before
        )
        return cls(_observations(observed, box, study.direction), _points(pending, box), unplaced)


def _is_observed(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.COMPLETE:
        return True
    return trial.state.is_finished() and bool(trial.user_attrs.get(DIVERGED, False))


def _observations(trials: Sequence[FrozenTrial], box: Box, direction: StudyDirection) -> Observations:
    sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
    values = [trial.value if trial.state == TrialState.COMPLETE else None for trial in trials]
    return Observations(
        points=_points(trials, box),
        values=sign * np.array([np.nan if value is None else value for value in values], dtype=float),
        diverged=np.array([bool(trial.user_attrs.get(DIVERGED, False)) for trial in trials], dtype=bool),
        cliff_knobs=box.cliff_knobs,
    )


def _points(trials: Sequence[FrozenTrial], box: Box) -> Array:
    return np.array([box.to_unit(trial.params) for trial in trials], dtype=float).reshape(-1, len(box.names))
