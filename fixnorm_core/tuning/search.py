"""Where to look next: the candidate with the highest expected improvement over the incumbent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from fixnorm_core.tuning.belief import Belief

__all__ = ["candidates", "propose"]

Array = npt.NDArray[np.float64]

# 512 points: in two knobs a candidate within about 3 % of the box of any point.
_SPREAD_BITS = 9
_NEAR = 64
_NEAR_SD = 0.08


def propose(belief: Belief, *, rng: np.random.Generator) -> Array:
    """The next point (d,), in units of the box, inside it. ``belief`` knows at least one observed or imagined point."""
    incumbent = belief.incumbent()
    points = candidates(incumbent, rng=rng)
    best: Array = points[int(np.argmax(belief.gain(points, over=incumbent)))]
    return best


def candidates(incumbent: Array, *, rng: np.random.Generator) -> Array:
    """Points (C, d) all over the box (a scrambled Sobol sequence) and some around ``incumbent`` (d,)."""
    spread = qmc.Sobol(len(incumbent), scramble=True, rng=rng).random_base2(_SPREAD_BITS)
    near = incumbent + _NEAR_SD * rng.standard_normal((_NEAR, len(incumbent)))
    inside: Array = np.clip(np.vstack([spread, near]), 0.0, 1.0)
    return inside
