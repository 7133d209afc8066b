"""Which point to recommend, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.tuning.attributes import DIVERGED

__all__ = ["Recommendation", "recommend", "to_confirm"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A point and its accuracy.

    Attributes:
        params: The knobs.
        mean: Mean accuracy of the runs at this point.
        standard_error: Of that mean; ``source`` says what it was estimated from.
        source: ``"seeds"``: the sample standard deviation over two or more runs; ``"validation images"``: the one run's
            binomial error, which knows nothing of the seed, or NaN when the number of images is not known.
        runs: How many runs.
        trials: Their numbers, ascending.
        best_run: The number of the run with the highest accuracy, whose weights are kept.
    """

    params: dict[str, float]
    mean: float
    standard_error: float
    source: Literal["seeds", "validation images"]
    runs: int
    trials: tuple[int, ...]
    best_run: int


def recommend(trials: Sequence[FrozenTrial], *, validation_examples: int | None) -> Recommendation | None:
    """The point to recommend.

    Once a point has been repeated, only repeated points are in question: the highest of many single runs is partly
    luck, and nothing in it tells how much. Before that, the highest accuracy is recommended. Points are compared by
    their mean less one standard error (see :func:`to_confirm`).

    Args:
        trials: Trials of one study; only complete ones that did not diverge count. Values are accuracies, fractions in
            [0, 1] (only the binomial error uses the unit).
        validation_examples: Images that each accuracy was measured on; None when that is not known.

    Returns:
        None while no trial counts.
    """
    groups = _groups(trials)
    sigma = _noise(groups, validation_examples)
    repeated = [group for group in groups if len(group) > 1]
    chosen = _highest(repeated or groups, sigma=sigma)
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
    """The trials that count, those with identical parameters together."""
    groups: dict[tuple[tuple[str, float], ...], list[FrozenTrial]] = {}
    for trial in trials:
        if _counts(trial):
            groups.setdefault(tuple(sorted(trial.params.items())), []).append(trial)
    return list(groups.values())


def _noise(groups: Sequence[Sequence[FrozenTrial]], validation_examples: int | None) -> float:
    """Standard deviation of one run's accuracy."""
    sigma = _pooled_sd(groups)
    if groups and validation_examples is not None:
        sigma = max(sigma, _binomial_sd(max(_mean(group) for group in groups), validation_examples))
    return sigma


def _highest(groups: Sequence[list[FrozenTrial]], *, sigma: float) -> list[FrozenTrial] | None:
    return max(groups, key=lambda group: _mean(group) - sigma / math.sqrt(len(group)), default=None)


def _counts(trial: FrozenTrial) -> bool:
    if trial.state != TrialState.COMPLETE or trial.user_attrs.get(DIVERGED, False):
        return False
    return trial.value is not None and math.isfinite(trial.value)


def _summary(group: Sequence[FrozenTrial], validation_examples: int | None) -> Recommendation:
    repeated = len(group) > 1
    if repeated:
        sd = _pooled_sd([group])
    else:
        sd = _binomial_sd(_mean(group), validation_examples) if validation_examples is not None else math.nan
    return Recommendation(
        params=dict(group[0].params),
        mean=_mean(group),
        standard_error=sd / math.sqrt(len(group)),
        source="seeds" if repeated else "validation images",
        runs=len(group),
        trials=tuple(sorted(trial.number for trial in group)),
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


def _binomial_sd(accuracy: float, examples: int) -> float:
    inside = min(max(accuracy, 0.0), 1.0)
    return math.sqrt(inside * (1.0 - inside) / examples)
