"""What runs say that were seen no further than a rung, the first few epochs: where the peak is, not how high.

    y = a' - b' s(X; peak - lag) + residual + noise

in the notation of :mod:`fixnorm_core.tuning.belief`. After its first epochs a surface has the shape that it has at the
end, but a level ``a'`` and a depth ``b'`` of its own, and its peak at another learning rate: under a schedule that
anneals, what gains most in the end is behind at first. How far, the ``lag``, is unknown: a factor of 2, give or take as
much. So a rung weighs shapes by its own evidence, and says nothing about any value at the end.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.evidence import Setting, alike, fitted
from fixnorm_core.tuning.shapes import Shapes
from fixnorm_core.tuning.units import Unit

__all__ = ["Rung"]

Array = npt.NDArray[np.float64]

_LAG = (0.7, 0.7)
# (value, prior weight); what a run has gained by then is any part of what it will.
_SCALES = ((1.0, 0.2), (0.4, 0.4), (0.15, 0.4))
_RESIDUALS = ((0.04, 0.6), (0.15, 0.4))
_NOISES = ((0.012, 0.5), (0.03, 0.5))


@dataclass(frozen=True, slots=True)
class Rung:
    """Runs at the same epoch.

    Attributes:
        points: (n, d), coordinates on the axes.
        values: (n,), the best value of each until that epoch; larger is better.
    """

    points: Array
    values: Array

    def log_evidence(self, shapes: Shapes, axes: Axes, *, finals: Array) -> Array:
        """(P,), how well each shape explains the values, up to a constant.

        Args:
            shapes: ``P`` shapes of the surface at the end.
            axes: The ``d`` searched parameters.
            finals: Values at the end that are known, for their unit.
        """
        unit = Unit.of(np.concatenate([finals, self.values]))
        median, sd = _LAG
        lags = median + sd * np.random.default_rng(0).standard_normal((len(shapes.peak), 1))
        drops = -replace(shapes, peak=shapes.peak - lags * axes.rates).drop(self.points)
        likeness, y = alike(self.points, self.points, axes), unit.shares(self.values)
        evidence = []
        for (scale, a), (tau, b), (sigma, c) in itertools.product(_SCALES, _RESIDUALS, _NOISES):
            setting = Setting(scale=scale, tau=scale * tau, sigma=sigma, weight=a * b * c)
            evidence.append(fitted(setting, likeness, y, drops).log_evidence + math.log(setting.weight))
        total: Array = np.logaddexp.reduce(np.array(evidence), axis=0)
        return total
