"""Stopping trials early as an Optuna pruner. Numerics are in :mod:`fixnorm_core.tuning.curves`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.errors import SpecError
from fixnorm_core.tuning.attributes import CLASSES, CONFIRM, DIVERGED, KIND, PREDICTED, PRUNED_BECAUSE, TRAIN_LOSS
from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.curves import predict_ending

__all__ = ["CurvePruner", "Verdict"]

Array = npt.NDArray[np.float64]

# Before this share of the epochs nothing is judged by other curves; the usual warm-up of the learning rate is as long.
_EARLIEST = 0.1
# One low epoch is no reason: for so long, as a share of the epochs, a trial must have looked as if it should stop.
_PATIENCE = 0.05
# A network whose loss has not come below chance by half of its epochs is not late, it does not learn.
_MUST_HAVE_LEARNED = 0.5
# As a share of the way from chance to all right: what an accuracy at chance may reach by luck.
_LUCK = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a trial should be stopped.

    Attributes:
        predicted: The value that it would be expected to end at, in the objective's unit.
        reason: A sentence.
    """

    predicted: float
    reason: str


class CurvePruner(BasePruner):
    """Stops a trial that has next to no chance to end above the best one.

    A running trial is compared with the finished trials of its study at the same step, by a model that knows that
    learning rates differ in when they gain: under an annealed schedule a high one looks bad until its last epochs, and
    rules that compare values at the same step alone (Optuna's median, successive halving) stop it there. The chance is
    learned from the study's own finished curves, and unsure while they are few or far away in the search space. One low
    epoch is no reason: it must look as bad for a twentieth of the epochs.

    Two rules: the chance to end above the best complete trial is below ``chance``; or nothing was learned, which takes
    no other trial to see: half of the steps are over, accuracy is at chance and the training loss has never been below
    ln(classes). The second needs ``n_steps``, values that are accuracies in [0, 1], and the user attributes
    ``fixnorm:train_loss`` (a number for each step so far) and ``fixnorm:classes``.

    A decision is a pure function of the study's trials. A trial that should stop is given the user attributes
    ``fixnorm:predicted`` and ``fixnorm:pruned_because``; the first is what
    :class:`~fixnorm_core.tuning.sampler.FixNormSampler` takes as its value, so that it is information and not a hole.
    A trial of kind ``confirm`` is never stopped. Values may be in any unit, and either direction works.

    Args:
        chance: The largest chance to end above the best trial at which a trial is stopped.
        n_startup_trials: Complete trials there must be before one is judged by the others.
        n_steps: Values that a whole trial reports; None takes the most that a complete trial has reported.

    Raises:
        SpecError: ``chance`` is not in (0, 1), or one of the others is not positive.
    """

    def __init__(self, *, chance: float = 0.05, n_startup_trials: int = 3, n_steps: int | None = None) -> None:
        if not 0.0 < chance < 1.0:
            raise SpecError(f"chance is {chance:g}, which is not between 0 and 1", "Give a small one, such as 0.05.")
        if n_startup_trials < 1 or (n_steps is not None and n_steps < 1):
            raise SpecError(
                f"n_startup_trials is {n_startup_trials} and n_steps {n_steps}; both count from 1",
                "Give 3, and the number of epochs.",
            )
        self._chance = chance
        self._n_startup_trials = n_startup_trials
        self._n_steps = n_steps

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial should stop now; if so, the reason becomes an attribute of the trial."""
        verdict = self.judge(study, trial)
        if verdict is None:
            return False
        for name, value in ((PREDICTED, verdict.predicted), (PRUNED_BECAUSE, verdict.reason)):
            study._storage.set_trial_user_attr(trial._trial_id, name, value)
        return True

    def judge(self, study: Study, trial: FrozenTrial) -> Verdict | None:
        """Why the trial should stop now, or None if it should go on; changes nothing."""
        if trial.user_attrs.get(KIND) == CONFIRM or not trial.intermediate_values:
            return None
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        finished = [
            other
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if other.number != trial.number and _has_a_curve(other)
        ]
        n_steps = self._n_steps or max((len(other.intermediate_values) for other in finished), default=0)
        done = len(trial.intermediate_values)
        if done >= n_steps:
            return None
        if sign > 0.0 and (alone := self._judge_alone(trial, done, n_steps=n_steps)) is not None:
            return alone
        if len(finished) < self._n_startup_trials:
            return None
        verdict = self._judge_by_others(trial, finished, done, n_steps=n_steps, sign=sign)
        for earlier in range(1, round(_PATIENCE * n_steps) + 1):
            if verdict is None or not self._judge_by_others(
                trial, finished, done - earlier, n_steps=n_steps, sign=sign
            ):
                return None
        return verdict

    def _judge_alone(self, trial: FrozenTrial, done: int, *, n_steps: int) -> Verdict | None:
        losses, classes = trial.user_attrs.get(TRAIN_LOSS), trial.user_attrs.get(CLASSES)
        if not losses or not classes or done < max(2.0, _MUST_HAVE_LEARNED * n_steps):
            return None
        chance = 1.0 / classes
        highest = max(trial.intermediate_values.values())
        if min(losses) < math.log(classes) or highest > chance + _LUCK * (1.0 - chance):
            return None
        return Verdict(
            predicted=highest,
            reason=f"it does not learn: after {done} of {n_steps} epochs its loss has never been below chance, "
            f"ln({classes}) = {math.log(classes):.2f}, and its accuracy is at most {highest:.3g}",
        )

    def _judge_by_others(
        self, trial: FrozenTrial, finished: Sequence[FrozenTrial], epochs: int, *, n_steps: int, sign: float
    ) -> Verdict | None:
        """As it looked after the trial's first so many epochs."""
        if epochs < max(1.0, _EARLIEST * n_steps):
            return None
        until = sorted(trial.intermediate_values)[epochs - 1]
        finals = sign * np.array([other.value for other in finished], dtype=float)
        levels = np.array([_level(other, until=until, sign=sign) for other in finished])
        span = float(finals.max() - min(_first(other, sign=sign) for other in finished))
        if span <= 0.0 or not (level := _level(trial, until=until, sign=sign)) > -math.inf:
            return None
        *points, point = _points([*finished, trial])
        ending = predict_ending(
            finals=finals,
            levels=levels,
            points=np.array(points),
            level=level,
            point=point,
            remaining=1.0 - epochs / n_steps,
            span=span,
        )
        best = float(finals.max())
        chance = ending.chance_above(best)
        if chance >= self._chance:
            return None
        return Verdict(
            predicted=sign * ending.mean,
            reason=f"its chance to end {'above' if sign > 0 else 'below'} the best so far, {sign * best:.4g}, is "
            f"{100 * chance:.1g} %: by the curves of {len(finished)} finished trials it would end at "
            f"{sign * ending.mean:.3g} ± {ending.deviation:.2g}",
        )


def _has_a_curve(trial: FrozenTrial) -> bool:
    """Whether a complete trial says how curves end; one that diverged does not."""
    ended = trial.value is not None and math.isfinite(trial.value) and not trial.user_attrs.get(DIVERGED)
    return bool(ended) and any(math.isfinite(value) for value in trial.intermediate_values.values())


def _level(trial: FrozenTrial, *, until: int, sign: float) -> float:
    """The best value up to a step, or the first one after it; minus infinity when none is finite."""
    values = {step: sign * value for step, value in trial.intermediate_values.items() if math.isfinite(value)}
    reached = [value for step, value in values.items() if step <= until]
    return max(reached) if reached else values[min(values)] if values else -math.inf


def _first(trial: FrozenTrial, *, sign: float) -> float:
    values = {step: value for step, value in trial.intermediate_values.items() if math.isfinite(value)}
    return sign * values[min(values)]


def _points(trials: Sequence[FrozenTrial]) -> Array:
    """(n, d), where the trials lie in what their search spaces share."""
    space = {
        name: distribution
        for name, distribution in trials[0].distributions.items()
        if all(other.distributions.get(name) == distribution for other in trials)
    }
    return Axes.of(space).points([trial.params for trial in trials])
