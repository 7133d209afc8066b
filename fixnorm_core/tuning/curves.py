"""Where a learning curve will end, judged by the finished curves of the same study. NumPy alone.

Notation:
    n: Finished curves. They and the running one are compared at the same epoch.
    F: (n,), their final values, higher is better.
    L: (n,), their levels: the best value of each until that epoch. The last value alone would be a poor level: with a
        high learning rate, accuracy jumps by tens of points from epoch to epoch until the schedule calms it.
    U: (n, d), where their trials lie (:mod:`fixnorm_core.tuning.axes`): a factor of e in a rate is a distance of 1.
    rho: The share of the epochs that is still to come.
    D: The study's span, max F less the lowest first value: what makes the model free of units.

What is modelled is the gain that is still to come, G = F - L. Under a schedule that anneals the learning rate it
depends on the learning rate before all: small ones have gained most of what they will, large ones gain nearly all at
the end. So G is a Gaussian process over U, with a linear term in L (curves that are behind may catch up, or not), a
free mean and noise:

    G ~ N(0, s² (exp(-|u - u'|² / (2 l²)) + 1 + (tau / D)² (L - mean L)(L' - mean L) + r² [same trial]))

Its scale s has an inverse-gamma prior with ``_PRIOR_DEGREES`` degrees of freedom at ``_PRIOR_SCALE * sqrt(rho) * D``,
so F is Student-t given l and r; these are averaged over grids, weighted by their marginal likelihood (Rasmussen &
Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2 and 5.4). With few finished curves, or far from
all of them, the prior is wide, and nothing follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["Ending", "predict_ending"]

Array = npt.NDArray[np.float64]

_LENGTH_SCALES = (1.0, 2.0, 4.0)
_NOISE_RATIOS = (0.05, 0.15, 0.4, 1.0)
_PRIOR_SCALE = 0.35
_PRIOR_DEGREES = 3.0
_TAU = 2.0


@dataclass(frozen=True, slots=True)
class Ending:
    """A belief about a curve's final value: a mixture of Student-t distributions.

    Attributes:
        weights: (m,), they sum to one.
        means: (m,), in the unit of the values.
        scales: (m,), likewise.
        degrees: Of freedom.
    """

    weights: Array
    means: Array
    scales: Array
    degrees: float

    @property
    def mean(self) -> float:
        """The expected final value."""
        return float(self.weights @ self.means)

    @property
    def deviation(self) -> float:
        """Standard deviation of the final value."""
        inside = self.scales**2 * self.degrees / (self.degrees - 2.0) + self.means**2
        return math.sqrt(max(float(self.weights @ inside) - self.mean**2, 0.0))

    def chance_above(self, value: float) -> float:
        """Probability that the final value is above ``value``."""
        tails = stats.t.sf((value - self.means) / self.scales, self.degrees)
        return float(self.weights @ tails)


def predict_ending(
    *, finals: Array, levels: Array, points: Array, level: float, point: Array, remaining: float, span: float
) -> Ending:
    """The belief about the final value of a running curve.

    Args:
        finals: (n,), F, n >= 1.
        levels: (n,), L, at the running curve's epoch.
        points: (n, d), U.
        level: The running curve's own level.
        point: (d,), where its trial lies.
        remaining: rho, in (0, 1].
        span: D > 0.
    """
    gains, degrees = finals - levels, _PRIOR_DEGREES + len(finals)
    prior = _PRIOR_DEGREES * (_PRIOR_SCALE * math.sqrt(remaining) * span) ** 2
    centre = levels.mean()
    lags, lag = _TAU * (levels - centre) / span, _TAU * (level - centre) / span
    trend, own_trend = 1.0 + np.outer(lags, lags), 1.0 + lag * lags
    distances = np.sum((points[:, None] - points[None]) ** 2, axis=-1)
    own_distances = np.sum((points - point) ** 2, axis=-1)
    likelihoods, means, scales = [], [], []
    for length in _LENGTH_SCALES:
        shared = np.exp(-distances / (2.0 * length**2)) + trend
        own = np.exp(-own_distances / (2.0 * length**2)) + own_trend
        for ratio in _NOISE_RATIOS:
            root = np.linalg.cholesky(shared + ratio**2 * np.eye(len(finals)))
            white_gains, white_own = np.linalg.solve(root, np.stack([gains, own], axis=1)).T
            squares = prior + white_gains @ white_gains
            spread = 2.0 + lag**2 + ratio**2 - white_own @ white_own  # at least ratio² > 0
            likelihoods.append(-np.log(np.diag(root)).sum() - degrees / 2.0 * np.log(squares))
            means.append(level + white_own @ white_gains)
            scales.append(math.sqrt(spread * squares / degrees))
    weights = np.exp(np.array(likelihoods) - max(likelihoods))
    return Ending(weights / weights.sum(), np.array(means), np.array(scales), degrees)
