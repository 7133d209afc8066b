"""The few-trial strategy as an Optuna sampler. Numerics are in :mod:`fixnorm_core.tuning.belief` and its neighbours."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from fixnorm_core.errors import SpecError
from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.belief import Belief
from fixnorm_core.tuning.hints import Hint, Hints
from fixnorm_core.tuning.history import History
from fixnorm_core.tuning.one_thread import one_thread
from fixnorm_core.tuning.search import propose
from fixnorm_core.tuning.stopping import reason_to_stop

__all__ = ["FixNormSampler"]

Array = npt.NDArray[np.float64]

# Earlier trials of one burst of asks whose points are worked out again; more would be dead trials, not a burst.
_MAX_UNPLACED = 8


class FixNormSampler(BaseSampler):
    """Proposes (lr, fc_norm), or any other parameters, for studies of a handful of trials.

    It expects one peak, knobs that hardly interact on a log scale, a flat top, noise of the seed and a cliff where the
    learning rate is too high, and gives each of these up as far as the trials speak against it. A learning rate is the
    log-scaled parameter named ``lr`` or ``learning_rate``; floats, integers and categories of any name are searched
    too. Values may be in any unit, and either direction works; fractions and percents of right or wrong answers are
    recognized. A trial with the user attribute ``fixnorm:diverged``, or with a value that is not finite, says that the
    learning rate was too high (without one, some number) and nothing more. A failed or pruned trial is not visited
    again, but says nothing about the surface, unless whoever pruned it left a prediction (``fixnorm:predicted``).

    A suggestion is a pure function of the study's trials, the seed and the trial's number: there is no hidden state,
    so one sampler may serve several threads, and a restarted process suggests the same. Running trials count as
    observed at their expected value, so parallel slots get different points.

    Part of this project's reconstruction of the idea of arXiv 2103.15345; the rule itself is this project's own.

    Args:
        search_space: The parameters by name. Any that an objective suggests without naming it here is sampled at
            random.
        seed: Seeds everything; None draws a seed from the operating system.
        start: The first point, a value for each parameter that has more than one. It is also taken for a hint: the peak
            is probably within a factor of three of it. None begins where most surfaces are nearly at their best.
        hints: Points that are probably near the peak, as far as each says, such as what earlier studies found. Trials
            that speak against them outweigh them. Without ``start``, the first point is the first hint's.
        n_screened: The first so many trials are spread evenly over the learning rate, in the middle of all else, for
            short runs such as :class:`~fixnorm_core.tuning.screening.ScreeningPruner` makes of them.

    Raises:
        SpecError: ``search_space`` is empty, or ``start`` or a hint lacks a parameter, names another one, or has a
            value that is not in the range (start) or has no place on its scale (hint).
    """

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution],
        *,
        seed: int | None = None,
        start: Mapping[str, Any] | None = None,
        hints: Sequence[Hint] = (),
        n_screened: int = 0,
    ) -> None:
        if not search_space:
            raise SpecError(
                "The search space is empty", 'Give it a knob, such as {"lr": FloatDistribution(..., log=True)}.'
            )
        self._search_space = dict(search_space)
        if start is not None:
            _check_start(start, Axes.of(search_space))
        for hint in hints:
            hint.check(Axes.of(search_space))
        self._n_screened = n_screened
        self._start = dict(start) if start is not None else None
        self._hints = (*(() if start is None else (Hint(dict(start)),)), *hints)
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002  Optuna's signature
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """The search space given at construction: known before the first trial, unlike Optuna's inferred one."""
        return dict(self._search_space)

    @one_thread()
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Proposes a value for every parameter of ``search_space``.

        Raises:
            ValueError: The study has several objectives or constraints.
        """
        self._raise_error_if_unsupported(study)
        axes = Axes.of(search_space)
        params = {
            name: self.sample_independent(study, trial, name, fixed)
            for name, fixed in search_space.items()
            if name not in axes.names
        }
        return params | self._propose(study, trial, axes) if axes.names else params

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

    @one_thread()
    def stop_reason(self, study: Study, *, tolerance: float = 0.0) -> str | None:
        """Why the search can end, as a sentence, or None while it should go on; a pure function of the study.

        Args:
            study: The study.
            tolerance: A gain that is not worth a trial, in the objective's unit. The seed noise never is.

        Raises:
            ValueError: The study has several objectives or constraints.
        """
        self._raise_error_if_unsupported(study)
        axes = Axes.of(self._search_space)
        if not axes.names:
            return None
        history = History.read(study, axes)
        rng = self._rng(len(history.observations.values))
        return reason_to_stop(self._belief(history, axes, rng), axes, rng=rng, tolerance=tolerance)

    @one_thread()
    def expected(self, study: Study, points: Sequence[Mapping[str, Any]]) -> list[float]:
        """The expected value of the objective at each of ``points``, free of the seed's noise, in the objective's unit.

        The highest value of many noisy trials is partly luck; of their points, the one expected to be best is the
        better choice.

        Args:
            study: A study with at least one complete trial.
            points: A value for each parameter of the search space that has more than one.

        Raises:
            ValueError: The study has several objectives or constraints, or no complete trial.
        """
        self._raise_error_if_unsupported(study)
        axes = Axes.of(self._search_space)
        history = History.read(study, axes)
        if history.observations.passed_cliff.all():
            raise ValueError("The study has no complete trial, so no value is expected anywhere: run one first.")
        belief = self._belief(history, axes, self._rng(len(history.observations.values)))
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        return [sign * float(mean) for mean in belief.expected(axes.points(points))]

    def _propose(self, study: Study, trial: FrozenTrial, axes: Axes) -> dict[str, Any]:
        history = History.read(study, axes, before=trial.number)
        tried = history.observations.points[~history.observations.passed_cliff]
        pending = history.pending
        for number in (*history.unplaced[-_MAX_UNPLACED:], trial.number):
            rng = self._rng(number)
            is_first = not len(history.observations.values) and not len(pending) and history.rung is None
            point = (
                self._screened(axes, number) if number < self._n_screened else self._first(axes) if is_first else None
            )
            if point is None:
                belief = self._belief(history, axes, rng).imagine(pending)
                point = propose(belief, axes, tried=np.vstack([tried, pending]), rng=rng)
            pending = np.vstack([pending, point[None]])
        return axes.params(pending[-1])

    def _first(self, axes: Axes) -> Array | None:
        """The start, or the first hint; None without either."""
        hints = Hints.on(axes, self._hints)
        return axes.snap(hints.points[:1])[0] if hints is not None else None

    def _screened(self, axes: Axes, number: int) -> Array | None:
        """One of the points that are spread over the learning rate; None without one."""
        share = (number + 0.5) / self._n_screened
        return axes.snap((axes.spans * np.where(axes.rates, share, 0.5))[None])[0] if axes.rates.any() else None

    def _belief(self, history: History, axes: Axes, rng: np.random.Generator) -> Belief:
        return Belief.learn(history.observations, axes, rng=rng, hints=Hints.on(axes, self._hints), rung=history.rung)

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, number))

    def _raise_error_if_unsupported(self, study: Study) -> None:
        self._raise_error_if_multi_objective(study)
        if any(trial.constraints for trial in study.get_trials(deepcopy=False)):
            raise ValueError(f"The study has constraints, which {type(self).__name__} does not support.")


def _check_start(start: Mapping[str, Any], axes: Axes) -> None:
    if start.keys() != set(axes.names):
        raise SpecError(
            f"start has {sorted(start)}, the searched parameters are {sorted(axes.names)}", "Give one value for each."
        )
    for axis in axes.axes:
        value = start[axis.name]
        if not axis.holds(value) or not axis.distribution._contains(axis.distribution.to_internal_repr(value)):
            raise SpecError(
                f"start[{axis.name!r}] is {value!r}, which is not in {axis.distribution}",
                "Move it or widen the range.",
            )
