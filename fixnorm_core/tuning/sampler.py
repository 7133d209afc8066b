"""The few-trial strategy as an Optuna sampler. Numerics are in :mod:`fixnorm_core.tuning.belief`."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from fixnorm_core.errors import SpecError
from fixnorm_core.tuning.belief import Belief
from fixnorm_core.tuning.history import Box, History
from fixnorm_core.tuning.search import propose
from fixnorm_core.tuning.stopping import reason_to_stop

__all__ = ["FixNormSampler"]

Array = npt.NDArray[np.float64]

# Earlier trials of one burst of asks whose points are worked out again; more would be dead trials, not a burst.
_MAX_UNPLACED = 8


class FixNormSampler(BaseSampler):
    """Proposes (lr, fc_norm), or any log-scaled knobs, for studies of a handful of trials.

    It expects one peak, knobs that hardly interact on a log scale, a flat top, noise of the seed and a cliff where the
    learning rate is too high, and gives each of these up as far as the trials speak against it. Values may be in any
    unit, and either direction works. A trial with the user attribute ``fixnorm:diverged``, or with a value that is not
    finite, says that the learning rate was too high (the knob named ``lr`` or ``learning_rate``; without one, some
    knob) and nothing more. A failed or pruned trial is not visited again, but says nothing about the surface.

    A suggestion is a pure function of the study's trials, the seed and the trial's number: there is no hidden state,
    so one sampler may serve several threads, and a restarted process suggests the same. Running trials count as
    observed at their expected value, so parallel slots get different points.

    Part of this project's reconstruction of the idea of arXiv 2103.15345; the rule itself is this project's own.

    Args:
        search_space: The parameters by name. Log-scaled floats are modelled; every other parameter, and any that an
            objective suggests without naming it here, is sampled at random.
        seed: Seeds everything; None draws a seed from the operating system.
        start: The first point, a value for each modelled knob; None starts at the geometric centre.

    Raises:
        SpecError: ``search_space`` is empty, or ``start`` lacks a knob, names another one or leaves a range.
    """

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution],
        *,
        seed: int | None = None,
        start: Mapping[str, float] | None = None,
    ) -> None:
        if not search_space:
            raise SpecError(
                "The search space is empty", 'Give it a knob, such as {"lr": FloatDistribution(..., log=True)}.'
            )
        self._search_space = dict(search_space)
        self._knobs = {name: knob for name, knob in search_space.items() if _is_modelled(knob)}
        if start is not None:
            _check_start(start, self._knobs)
        self._start = dict(start) if start is not None else None
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002  Optuna's signature
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """The search space given at construction: known before the first trial, unlike Optuna's inferred one."""
        return dict(self._search_space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Proposes a value for every parameter of ``search_space``.

        Raises:
            ValueError: The study has several objectives or constraints.
        """
        self._raise_error_if_unsupported(study)
        knobs = {name: knob for name, knob in search_space.items() if _is_modelled(knob)}
        params = {
            name: self.sample_independent(study, trial, name, other)
            for name, other in search_space.items()
            if name not in knobs
        }
        return params | self._propose(study, trial, knobs) if knobs else params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Samples one parameter at random, by seed, trial number and name.

        Raises:
            ValueError: The study has several objectives or constraints.
        """
        self._raise_error_if_unsupported(study)
        entropy = (self._seed, trial.number, zlib.crc32(param_name.encode()))
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        return RandomSampler(seed=seed).sample_independent(study, trial, param_name, param_distribution)

    def stop_reason(self, study: Study, *, tolerance: float = 0.0) -> str | None:
        """Why the search can end, as a sentence, or None while it should go on; a pure function of the study.

        Args:
            study: The study.
            tolerance: A gain that is not worth a trial, in the objective's unit. The seed noise never is.

        Raises:
            ValueError: The study has several objectives or constraints.
        """
        self._raise_error_if_unsupported(study)
        if not self._knobs:
            return None
        history = History.read(study, Box.of(self._knobs))
        rng = self._rng(len(history.observations.values))
        return reason_to_stop(history.observations, rng=rng, tolerance=tolerance)

    def expected(self, study: Study, points: Sequence[Mapping[str, float]]) -> list[float]:
        """The expected value of the objective at each of ``points``, free of the seed's noise, in the objective's unit.

        The highest value of many noisy trials is partly luck; of their points, the one expected to be best is the
        better choice.

        Args:
            study: A study with at least one complete trial.
            points: A value for each modelled knob.

        Raises:
            ValueError: The study has several objectives or constraints, or no complete trial.
        """
        self._raise_error_if_unsupported(study)
        box = Box.of(self._knobs)
        observations = History.read(study, box).observations
        if observations.passed_cliff.all():
            raise ValueError("The study has no complete trial, so no value is expected anywhere: run one first.")
        belief = Belief.learn(observations, rng=self._rng(len(observations.values)))
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        means = belief.expected(np.array([box.to_unit(point) for point in points]))
        return [sign * float(mean) for mean in means]

    def _propose(self, study: Study, trial: FrozenTrial, knobs: dict[str, FloatDistribution]) -> dict[str, float]:
        box = Box.of(knobs)
        history = History.read(study, box, before=trial.number)
        pending = history.pending
        for number in (*history.unplaced[-_MAX_UNPLACED:], trial.number):
            if len(history.observations.values) or len(pending):
                belief = Belief.learn(history.observations, rng=self._rng(number)).imagine(pending)
                point = propose(belief, rng=self._rng(number))
            else:
                point = self._first_point(box)
            pending = np.vstack([pending, point[None]])
        return box.from_unit(pending[-1])

    def _first_point(self, box: Box) -> Array:
        if self._start is None or not set(box.names) <= self._start.keys():
            return np.full(len(box.names), 0.5)
        return box.to_unit(self._start)

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, number))

    def _raise_error_if_unsupported(self, study: Study) -> None:
        self._raise_error_if_multi_objective(study)
        if any(trial.constraints for trial in study.get_trials(deepcopy=False)):
            raise ValueError(f"The study has constraints, which {type(self).__name__} does not support.")


def _is_modelled(distribution: BaseDistribution) -> TypeGuard[FloatDistribution]:
    return isinstance(distribution, FloatDistribution) and distribution.log and not distribution.single()


def _check_start(start: Mapping[str, float], knobs: Mapping[str, FloatDistribution]) -> None:
    if start.keys() != knobs.keys():
        raise SpecError(
            f"start has {sorted(start)}, the modelled knobs are {sorted(knobs)}", "Give one value for each."
        )
    for name, knob in knobs.items():
        if not knob.low <= start[name] <= knob.high:
            raise SpecError(
                f"start[{name!r}] is {start[name]:g}, outside its range [{knob.low:g}, {knob.high:g}]",
                "Move it or widen the range.",
            )
