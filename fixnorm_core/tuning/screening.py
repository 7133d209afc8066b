"""Short runs before whole ones, as an Optuna pruner. Numerics are in :mod:`fixnorm_core.tuning.rungs`."""

from __future__ import annotations

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from fixnorm_core.errors import SpecError
from fixnorm_core.tuning.attributes import CONFIRM, KIND, PRUNED_BECAUSE, RUNG

__all__ = ["N_SCREENED", "ScreeningPruner"]

N_SCREENED = 4
"""How many trials are run short, where nothing else is said."""


class ScreeningPruner(BasePruner):
    """Stops the first trials of a study after a few epochs, whatever they have reached, and none after them.

    Their points should be spread over the learning rates: give the sampler the same ``n_screened``.

    Which learning rates are hopeless, and about where the best one is, shows in a fraction of a run. A trial that is
    stopped is given the user attributes ``fixnorm:rung``, by which
    :class:`~fixnorm_core.tuning.sampler.FixNormSampler` knows what it says, and ``fixnorm:pruned_because``; the sampler
    may propose its point again. Other samplers make of it what they make of any pruned trial. It pays where the first
    trial is not near the best anyway (benchmarks/early_stopping.md).

    A trial of kind ``confirm`` is never stopped. A trial that was diverging before the rung may complete, and counts.

    Args:
        n_steps: Values that a whole trial reports.
        share: How far the first trials get, as a share of the steps.
        n_screened: How many they are.

    Raises:
        SpecError: A number is out of its range.
    """

    def __init__(self, *, n_steps: int, share: float = 1 / 16, n_screened: int = N_SCREENED) -> None:
        if n_steps < 1 or n_screened < 0:
            raise SpecError(
                f"n_steps is {n_steps}, which counts from 1, and n_screened {n_screened}, which counts from 0",
                "Give the number of epochs, and 4.",
            )
        if not 0.0 < share < 1.0:
            raise SpecError(f"share is {share:g}, which is not between 0 and 1", "Give a small one, such as 1/16.")
        self._n_steps, self.n_screened = n_steps, n_screened
        self._step = max(1, round(share * n_steps))

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial should stop now; if so, the reason becomes an attribute of the trial."""
        reached = max(trial.intermediate_values, default=0)
        if trial.user_attrs.get(KIND) == CONFIRM or not self._step <= reached < self._n_steps:
            return False
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        if sum(RUNG in other.user_attrs or other.state.is_finished() for other in others) >= self.n_screened:
            return False
        reason = (
            f"it is one of the first {self.n_screened} trials, which train for {self._step} of {self._n_steps} epochs "
            "to tell which learning rates are worth a whole run"
        )
        for name, value in ((RUNG, self._step), (PRUNED_BECAUSE, reason)):
            study._storage.set_trial_user_attr(trial._trial_id, name, value)
        return True
