"""Which point to recommend, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.tuning.attributes import CONFIRM, DIVERGED, KIND

__all__ = ["Point", "Recommendation", "complete_points", "point_of", "recommend", "to_confirm"]

_USUAL_RANGE = 0.05
"""Seeds alone move an accuracy by 0.006 to 0.014 (standard deviation) on the small tasks that were measured."""

Point = tuple[tuple[str, float], ...]
"""The knobs of a point with their values, by name: a key for what is known of it."""


def point_of(params: Mapping[str, float]) -> Point:
    """The key of a point."""
    return tuple(sorted(params.items()))


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A point and its accuracy.

    Attributes:
        params: The knobs.
        mean: Mean accuracy of ``trials``.
        standard_error: Of that mean, for new seeds and new images; ``source`` says what it was estimated from.
        source: ``"seeds and images"``: the variance over repeated runs, pooled over all confirmed points since seeds
            matter alike at each, and the binomial one of counting right answers on the images that all runs share.
            ``"images"``: of one run, with no point repeated, the latter alone; NaN when the number of images is not
            known.
        runs: How many runs the mean is over.
        trials: Their numbers, ascending: the confirming runs alone as soon as there is one, for the run that made the
            point look best is above its mean by selection; all runs of the point before that.
        confirmed: Whether they are confirming runs. If not, the point was chosen for this very mean, which is
            therefore too high on average.
        best_run: The number of the point's run with the highest accuracy, whose weights are kept.
        accuracies: Of all runs of the point, the one that chose it included, by number.
        disagree: Whether these lie further apart than seeds usually put runs of one point: by more than 0.05, and by
            more than four standard errors of counting right answers on the validation images. A mean over a few of them
            says little then.
        expected: The accuracy that the sampler expects here, free of the seed's luck; None when it has no such belief.
        runner_up: The next best point, of the confirmed ones if there is a second, else of all; None if there is none.
            It has no runner-up itself.
        told_apart: Whether this point is better than ``runner_up`` by more than the standard error of their difference,
            taking their errors for independent; None without a runner-up, or while no repeated run tells how much
            the seed matters.
    """

    params: dict[str, float]
    mean: float
    standard_error: float
    source: Literal["seeds and images", "images"]
    runs: int
    trials: tuple[int, ...]
    confirmed: bool
    best_run: int
    accuracies: tuple[float, ...] = ()
    disagree: bool = False
    expected: float | None = None
    runner_up: Recommendation | None = None
    told_apart: bool | None = None


def recommend(
    trials: Sequence[FrozenTrial],
    *,
    validation_examples: int | None,
    expected: Mapping[Point, float] | None = None,
) -> Recommendation | None:
    """The point to recommend.

    Points are compared by what accuracy is to be expected of them, never by their luckiest run: by the sampler's
    posterior mean (``expected``) where it has one. Without one, by the mean of all runs of a point less one standard
    error, sigma / sqrt(runs), with one sigma for all points (see :func:`_noise`). That much the best of a few
    equally good points exceeds its own mean by luck (the largest of 2, 4, 6 normal deviates is 0.6, 1.0, 1.3 of them on
    average), and unlike a shrunken mean it needs no spread of the points' true accuracies, which a dozen runs, some of
    them hopeless, do not tell.

    Once a point has been confirmed, only confirmed points are in question: no other has an accuracy that it was not
    chosen for. A point one of whose runs diverged is never in question.

    Args:
        trials: Trials of one study; only complete ones count. Values are accuracies, fractions in [0, 1]. Runs of kind
            :data:`~fixnorm_core.tuning.attributes.CONFIRM` confirm their point.
        validation_examples: Images that each accuracy was measured on; None when that is not known.
        expected: The posterior mean at every point of :func:`complete_points`; used only if none of them is missing.

    Returns:
        None while no trial counts.
    """
    ranked = _ranked(trials, validation_examples, expected)
    confirmed = [group for group in ranked if _confirming(group)]
    best = next(iter(confirmed or ranked), None)
    if best is None:
        return None
    others = [group for group in (confirmed if len(confirmed) > 1 else ranked) if group is not best]
    first, *rest = (_summary(group, ranked, validation_examples, expected) for group in (best, *others[:1]))
    if not rest:
        return first
    return replace(first, runner_up=rest[0], told_apart=_differ(first, rest[0]))


def to_confirm(
    trials: Sequence[FrozenTrial],
    *,
    validation_examples: int | None,
    top_k: int = 1,
    expected: Mapping[Point, float] | None = None,
    earlier: Collection[int] = (),
) -> list[dict[str, float]]:
    """The points to run again with new seeds, the best first: the ``top_k`` that :func:`recommend` would rank highest.

    A point that has a confirming run, a running one included, stays among them: seeds are compared over equally many
    runs, and a first confirming run below the lucky one that chose the point is the rule, no reason to change. Only
    a point one of whose runs diverged is given up, and the next best takes its place.

    Args:
        trials: As for :func:`recommend`.
        validation_examples: Likewise.
        top_k: How many points.
        expected: As for :func:`recommend`.
        earlier: Numbers of the trials before the search was reopened: their confirming runs keep no point, since the
            search may have found a better one by now.

    Returns:
        Fewer than ``top_k`` when there are no more points; none while no trial counts.
    """
    confirming = [trial for trial in trials if trial.user_attrs.get(KIND) == CONFIRM and _counts(trial)]
    begun = {point_of(trial.params) for trial in confirming if trial.number not in earlier}
    ranked = _ranked(trials, validation_examples, expected)
    kept = sorted(ranked, key=lambda group: point_of(group[0].params) not in begun)  # stable: by rank within
    return [dict(group[0].params) for group in kept[:top_k]]


def complete_points(trials: Sequence[FrozenTrial]) -> list[dict[str, float]]:
    """The points that can be recommended, in the order of their first runs."""
    return [dict(group[0].params) for group in _groups(trials)]


def _ranked(
    trials: Sequence[FrozenTrial], validation_examples: int | None, expected: Mapping[Point, float] | None
) -> list[list[FrozenTrial]]:
    """The runs of each point, the best point first."""
    groups = _groups(trials)
    if expected is not None and all(point_of(group[0].params) in expected for group in groups):
        return sorted(groups, key=lambda group: expected[point_of(group[0].params)], reverse=True)
    sigma = _noise(groups, validation_examples)
    return sorted(groups, key=lambda group: _mean(group) - sigma / math.sqrt(len(group)), reverse=True)


def _differ(best: Recommendation, other: Recommendation) -> bool | None:
    """Whether ``best`` is better by more than one standard error of the difference; None when that is not known."""
    if "images" in (best.source, other.source):
        return None
    if not other.confirmed and best.expected is not None and other.expected is not None:
        difference = best.expected - other.expected  # the mean of the other is above the truth by selection
    else:
        difference = best.mean - other.mean
    return difference > math.hypot(best.standard_error, other.standard_error)


def _groups(trials: Sequence[FrozenTrial]) -> list[list[FrozenTrial]]:
    """Complete trials, those with identical parameters together; points where a run diverged are left out."""
    groups: dict[Point, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            groups.setdefault(point_of(trial.params), []).append(trial)
    return [group for group in groups.values() if not any(_diverged(trial) for trial in group)]


def _noise(groups: Sequence[Sequence[FrozenTrial]], validation_examples: int | None) -> float:
    """Standard deviation of one run's accuracy: over seeds, pooled over all repeated points, and at least the binomial
    one of the best point's accuracy on the validation images.
    """
    sigma = _pooled_sd(groups)
    if groups and validation_examples is not None:
        sigma = max(sigma, _counting_error(max(_mean(group) for group in groups), validation_examples))
    return sigma


def _counts(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.RUNNING, TrialState.COMPLETE)


def _diverged(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get(DIVERGED)) or trial.value is None or not math.isfinite(trial.value)


def _confirming(group: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in group if trial.user_attrs.get(KIND) == CONFIRM]


def _summary(
    group: Sequence[FrozenTrial],
    groups: Sequence[Sequence[FrozenTrial]],
    validation_examples: int | None,
    expected: Mapping[Point, float] | None,
) -> Recommendation:
    confirming = _confirming(group)
    judged = confirming or group
    mean = _mean(judged)
    counting = _counting_error(mean, validation_examples) if validation_examples is not None else None
    repeated = [runs for other in groups if len(runs := _confirming(other) if confirming else other) > 1]
    seeds = _pooled_sd(repeated) / math.sqrt(len(judged))
    alone = counting if counting is not None else math.nan
    return Recommendation(
        params=dict(group[0].params),
        mean=mean,
        standard_error=math.hypot(seeds, counting or 0.0) if repeated else alone,
        source="seeds and images" if repeated else "images",
        runs=len(judged),
        trials=tuple(sorted(trial.number for trial in judged)),
        confirmed=bool(confirming),
        best_run=max(group, key=_value).number,
        accuracies=tuple(_value(trial) for trial in sorted(group, key=lambda trial: trial.number)),
        disagree=_disagree(group, validation_examples),
        expected=expected.get(point_of(group[0].params)) if expected is not None else None,
    )


def _disagree(group: Sequence[FrozenTrial], validation_examples: int | None) -> bool:
    values = [_value(trial) for trial in group]
    counting = _counting_error(_mean(group), validation_examples) if validation_examples is not None else 0.0
    return max(values) - min(values) > max(_USUAL_RANGE, 4 * counting)


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
