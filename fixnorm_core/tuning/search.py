"""Where to look next: the point after which the best one tried is expected to be the best.

This is the knowledge gradient of Frazier, Powell and Dayanik (2009), of surfaces that are drawn from the belief, so
that no shape of the posterior is assumed, and with what may be recommended limited to what has been tried.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.belief import Belief, Draws

__all__ = ["candidates", "propose"]

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

# In two knobs a candidate within about 5 % of the range of any point.
_SPREAD_BITS = 7
_NEAR, _NEAR_SD = 24, 0.06
# Each number of these is at either end of its range, or between, in equal parts: the best point may be a border's.
_BORDER_BITS = 4
_DRAWS, _OUTCOMES = 192, 48
# Half of them the candidates that are best as things stand, half drawn from all others.
_LOOKED_AT = 48
# Nothing is measured more exactly than this share of what the draws differ by: keeps a weight on more than one draw.
_EXACTNESS = 1e-3


def propose(belief: Belief, axes: Axes, *, tried: Array, rng: np.random.Generator) -> Array:
    """The next point (d,).

    Args:
        belief: What is known, with running trials imagined.
        axes: The searched parameters.
        tried: (n, d), the points that may be recommended after this trial, running ones included.
        rng: Draws candidates and surfaces.
    """
    points = candidates(axes, tried, rng=rng)
    draws = belief.draw(np.vstack([points, tried]), _DRAWS, rng=rng)
    utilities = -draws.regrets
    already = np.arange(len(points), len(points) + len(tried))
    looked_at = _promising(utilities[:, : len(points)], rng)
    gains = [_gain(draws, utilities, candidate, already, rng) for candidate in looked_at]
    best: Array = points[looked_at[int(np.argmax(gains))]]
    return best


def candidates(axes: Axes, tried: Array, *, rng: np.random.Generator) -> Array:
    """Points (C, d) all over the space (a scrambled Sobol sequence), some around those of ``tried`` (n, d), and some on
    the borders.
    """
    spread = axes.spread(qmc.Sobol(len(axes.axes), scramble=True, rng=rng).random_base2(_SPREAD_BITS))
    if not len(tried):
        return spread
    centres = tried[rng.integers(len(tried), size=_NEAR)]
    moves = _NEAR_SD * axes.spans * rng.standard_normal(centres.shape)
    near = axes.snap(centres + np.where(axes.choices > 0, 0.0, moves))
    thirds = qmc.Sobol(len(axes.axes), scramble=True, rng=rng).random_base2(_BORDER_BITS)
    border = axes.spread(np.where(axes.choices > 0, thirds, np.clip(3.0 * thirds - 1.0, 0.0, 1.0)))
    return np.vstack([spread, near, border])


def _promising(utilities: Array, rng: np.random.Generator) -> Indices:
    order = np.argsort(-utilities.mean(axis=0))
    half = _LOOKED_AT // 2
    return np.concatenate([order[:half], rng.choice(order[half:], half, replace=False)])


def _gain(draws: Draws, utilities: Array, candidate: int, already: Indices, rng: np.random.Generator) -> float:
    """The expected utility of the best point tried, ``already`` or as ``candidate``, once its value is known.

    Every drawn surface in turn is taken for the true one: its value at the candidate, with noise, re-weighs all draws.
    """
    outcomes = rng.choice(len(draws.values), _OUTCOMES, replace=False)
    column = draws.values[:, candidate]
    noise = np.maximum(draws.noise, _EXACTNESS * np.ptp(column) + np.finfo(float).tiny)
    values = column[outcomes] + noise[outcomes] * rng.standard_normal(_OUTCOMES)
    log_weights = -0.5 * ((values[:, None] - column) / noise) ** 2 - np.log(noise)
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    expected = weights @ utilities[:, np.append(already, candidate)]
    return float(expected.max(axis=1).mean())
