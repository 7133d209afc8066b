"""Which point to recommend, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.tuning.attributes import CONFIRM, DIVERGED, KIND

__all__ = ["Recommendation", "recommend", "to_confirm"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A point and its accuracy.

    Attributes:
        params: The knobs.
        mean: Mean accuracy of ``trials``.
        standard_error: Of that mean, for new seeds and new images; ``source`` says what it was estimated from.
        source: ``"seeds and images"``: the variance over two or more runs, and the binomial one of counting
            right answers on the images that all runs share. ``"images"``: of the one run, the latter alone;
            NaN when the number of images is not known.
        runs: How many runs the mean is over.
        trials: Their numbers, ascending: the confirming runs alone as soon as there is one, for the run that made the
            point look best is above its mean by selection; all runs of the point before that.
        confirmed: Whether they are confirming runs. If not, the point was chosen for this very mean, which is
            therefore too high on average.
        best_run: The number of the point's run with the highest accuracy, whose weights are kept.
    """

    params: dict[str, float]
    mean: float
    standard_error: float
    source: Literal["seeds and images", "images"]
    runs: int
    trials: tuple[int, ...]
    confirmed: bool
    best_run: int


def recommend(trials: Sequence[FrozenTrial], *, validation_examples: int | None) -> Recommendation | None:
    """The point to recommend.

    Once a point has been confirmed, only confirmed points are in question: the highest of many single runs is partly
    luck, and nothing in it tells how much. Before that, the highest accuracy is recommended. Points are compared by
    the mean of all their runs less one standard error (see :func:`to_confirm`). A point one of whose runs diverged is
    never in question.

    Args:
        trials: Trials of one study; only complete ones count. Values are accuracies, fractions in [0, 1]. Runs of kind
            :data:`~fixnorm_core.tuning.attributes.CONFIRM` confirm their point.
        validation_examples: Images that each accuracy was measured on; None when that is not known.

    Returns:
        None while no trial counts.
    """
    groups = _groups(trials)
    sigma = _noise(groups, validation_examples)
    confirmed = [group for group in groups if _confirming(group)]
    chosen = _highest(confirmed or groups, sigma=sigma)
    return _summary(chosen, validation_examples) if chosen is not None else None


def to_confirm(trials: Sequence[FrozenTrial], *, validation_examples: int | None) -> dict[str, float] | None:
    """The point to run again with a new seed: of all points, the one with the highest mean less one standard error.

    The standard error in that comparison is sigma / sqrt(runs) with one sigma for all points, so a point that has been
    repeated is not given up for a single run that may have been lucky, unless that run is clearly better; then that
    point is repeated next. sigma is the standard deviation over seeds, pooled over all repeated points, and at least
    the binomial one of the best point's accuracy on the validation images.

    Args:
        trials: As for :func:`recommend`.
        validation_examples: Likewise.

    Returns:
        The point; None while no trial counts.
    """
    groups = _groups(trials)
    chosen = _highest(groups, sigma=_noise(groups, validation_examples))
    return dict(chosen[0].params) if chosen is not None else None


def _groups(trials: Sequence[FrozenTrial]) -> list[list[FrozenTrial]]:
    """Complete trials, those with identical parameters together; points where a run diverged are left out."""
    groups: dict[tuple[tuple[str, float], ...], list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            groups.setdefault(tuple(sorted(trial.params.items())), []).append(trial)
    return [group for group in groups.values() if not any(_diverged(trial) for trial in group)]


def _noise(groups: Sequence[Sequence[FrozenTrial]], validation_examples: int | None) -> float:
    """Standard deviation of one run's accuracy."""
    sigma = _pooled_sd(groups)
    if groups and validation_examples is not None:
        sigma = max(sigma, _counting_error(max(_mean(group) for group in groups), validation_examples))
    return sigma


def _highest(groups: Sequence[list[FrozenTrial]], *, sigma: float) -> list[FrozenTrial] | None:
    return max(groups, key=lambda group: _mean(group) - sigma / math.sqrt(len(group)), default=None)


def _diverged(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get(DIVERGED)) or trial.value is None or not math.isfinite(trial.value)


def _confirming(group: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in group if trial.user_attrs.get(KIND) == CONFIRM]


def _summary(group: Sequence[FrozenTrial], validation_examples: int | None) -> Recommendation:
    confirming = _confirming(group)
    judged = confirming or group
    mean, several = _mean(judged), len(judged) > 1
    counting = _counting_error(mean, validation_examples) if validation_examples is not None else None
    seeds = _pooled_sd([judged]) / math.sqrt(len(judged))
    alone = counting if counting is not None else math.nan
    return Recommendation(
        params=dict(group[0].params),
        mean=mean,
        standard_error=math.hypot(seeds, counting or 0.0) if several else alone,
        source="seeds and images" if several else "images",
        runs=len(judged),
        trials=tuple(sorted(trial.number for trial in judged)),
        confirmed=bool(confirming),
        best_run=max(group, key=_value).number,
    )


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _mean(group: Sequence[FrozenTrial]) -> float:
    return fmean(_value(trial) for trial in group)


def _pooled_sd(groups: Sequence[Sequence[FrozenTrial]]) -> float:
    squares = sum((_value(trial) - _mean(group)) ** 2 for group in groups for trial in group)
    degrees = sum(len(group) - 1 for group in groups)
    return math.sqrt(squares / degrees) if degrees else 0.0


def _counting_error(accuracy: float, examples: int) -> float:
    """Standard error of a counted accuracy; by Laplace's rule of succession 100 % is not taken for certain."""
    right = (accuracy * examples + 1.0) / (examples + 2.0)
    inside = min(max(right, 0.0), 1.0)
    return math.sqrt(inside * (1.0 - inside) / examples)
