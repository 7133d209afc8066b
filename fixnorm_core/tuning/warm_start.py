"""What a finished job has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from fixnorm_core.spec import JobSpec, Summary
from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.belief import Belief
from fixnorm_core.tuning.choice import search_space
from fixnorm_core.tuning.history import History
from fixnorm_core.tuning.search import candidates

__all__ = ["peak_spread", "summarize"]

_DRAWS = 256


def summarize(
    spec: JobSpec, trials: Sequence[FrozenTrial], *, job: str, params: Mapping[str, float], accuracy: float
) -> Summary:
    """What a finished job hands on.

    Args:
        spec: The job.
        trials: All its trials.
        job: Its id.
        params: The point that it recommends.
        accuracy: The validation accuracy there.
    """
    return Summary(
        job=job,
        method=spec.search.method,
        model=spec.model,
        data=spec.data,
        training=spec.training,
        params=dict(params),
        spread=peak_spread(trials, search_space(spec.search), params),
        validation_accuracy=accuracy,
        trials=sum(trial.state.is_finished() and trial.value is not None for trial in trials),
    )


def peak_spread(
    trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], params: Mapping[str, Any]
) -> dict[str, float]:
    """How far from a point the peak may be, for all that a study's trials say.

    Args:
        trials: All trials of one study that maximizes.
        space: What it searched.
        params: The point, usually the recommended one.

    Returns:
        By parameter, the root mean square of the distance to the peak of surfaces that are drawn from the belief in
        these trials alone, without any hint that the study began with: natural logarithms on a log scale.
    """
    axes = Axes.of(space)
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction=StudyDirection.MAXIMIZE)
    study.add_trials(trials)
    history = History.read(study, axes)
    rng = np.random.default_rng(0)
    belief = Belief.learn(history.observations, axes, rng=rng, rung=history.rung)
    points = np.vstack([candidates(axes, history.observations.points, rng=rng), axes.point(params)])
    peaks = points[belief.draw(points, _DRAWS, rng=rng).values.argmax(axis=1)]
    away = np.sqrt(np.mean((peaks - axes.point(params)) ** 2, axis=0))
    return {name: float(each) for name, each in zip(axes.names, away, strict=True)}
