"""How few trials there could be: a sampler that knows the surface exactly, and not where in the box it lies.

It holds some thousand copies of the true surface, each moved to another place of the box, and weighs them by what the
trials say, with the true noise. No sampler knows as much, so what it needs is a floor for all of them. It proposes the
point that is most probably near-optimal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from few_trial.surfaces import Landscape

__all__ = ["Oracle"]

Array = npt.NDArray[np.float64]

_PLACES = 1500
_CANDIDATES_BITS = 7


class Oracle(BaseSampler):
    """Knows all but where.

    Args:
        surface: The true surface.
        space: The box.
        seed: Seeds places and candidates.
    """

    def __init__(self, surface: Landscape, space: Mapping[str, BaseDistribution], *, seed: int) -> None:
        self._surface, self._seed = surface, seed
        ranges = [space[knob] for knob in surface.knobs]
        assert all(isinstance(one, FloatDistribution) for one in ranges)
        self._low = np.log([one.low for one in ranges])  # type: ignore[attr-defined]
        self._span = np.log([one.high for one in ranges]) - self._low  # type: ignore[attr-defined]
        places = np.random.default_rng((seed, 4)).random((_PLACES, 2)) * self._span
        self._moves = self._low + places - np.log([surface.peak()[knob] for knob in surface.knobs])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Both knobs."""
        return {
            knob: FloatDistribution(math.exp(low), math.exp(low + span), log=True)
            for knob, low, span in zip(self._surface.knobs, self._low, self._span, strict=True)
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point most probably within epsilon of the best."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        log_weights = np.zeros(_PLACES)
        if done:
            points = np.log([[one.params[knob] for knob in self._surface.knobs] for one in done])
            misses = self._values(points) - np.array([one.value for one in done])
            log_weights = -0.5 * np.sum((misses / self._surface.noise) ** 2, axis=1)
        weights = np.exp(log_weights - log_weights.max())
        rng = np.random.default_rng((self._seed, 3, trial.number))
        points = self._low + self._span * qmc.Sobol(2, scramble=True, rng=rng).random_base2(_CANDIDATES_BITS)
        values = self._values(points)
        near = values >= values.max(axis=1, keepdims=True) - self._surface.epsilon
        best = points[int(np.argmax(weights @ near))]
        limits = {name: one for name, one in search_space.items() if isinstance(one, FloatDistribution)}
        return {
            knob: min(max(math.exp(x), limits[knob].low), limits[knob].high)
            for knob, x in zip(self._surface.knobs, best, strict=True)
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random; both knobs are sampled together."""
        return RandomSampler(seed=self._seed).sample_independent(study, trial, param_name, param_distribution)

    def _values(self, points: Array) -> Array:
        """(places, n), each copy's accuracy at points (n, 2) in logarithms; beyond what was recorded, the border's."""
        grids = [np.log(axis) for axis in self._surface.axes]
        where = points[None] - self._moves[:, None]
        inside = np.clip(where, [grid[0] for grid in grids], [grid[-1] for grid in grids])
        return self._surface.between(inside.reshape(-1, 2)).reshape(len(self._moves), len(points))
