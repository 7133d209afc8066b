"""How well random shapes explain some values: the Gaussian model of one setting, in closed form.

The notation is that of :mod:`fixnorm_core.tuning.belief`, whose observations these functions weigh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular

from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.kernels import matern52

__all__ = ["TOP_MEAN", "TOP_SD", "Fit", "Setting", "alike", "fitted"]

Array = npt.NDArray[np.float64]

TOP_MEAN, TOP_SD = 0.6, 0.3
"""The level of a surface's top before any trial."""

_DEPTH_MEAN, _DEPTH_SD = 0.5, 0.2
_KAPPA = 0.12
_RESIDUAL_LENGTH = 1.5
_CATEGORY_DISTANCE = 1.0


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of everything that is not integrated out, and its prior weight."""

    scale: float
    tau: float
    sigma: float
    weight: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What the observations make of ``m`` shapes under one setting."""

    setting: Setting
    root: Array  # (n, n) lower Cholesky factor of K
    values: Array  # (n,) root^-1 (y - E a)
    drops: Array  # (m, n) root^-1 (-s)
    depth: Array  # (m,) posterior mean of b
    depth_variance: Array  # (m,)
    log_evidence: Array  # (m,)


def fitted(setting: Setting, likeness: Array, y: Array, drops: Array) -> Fit:
    best = float(y.max()) if len(y) else TOP_MEAN
    noise = setting.sigma**2 + (_KAPPA * (best - y)) ** 2
    covariance = setting.tau**2 * likeness + TOP_SD**2 + np.diag(noise)
    root = cholesky(covariance, lower=True) if len(y) else covariance
    values = solve_triangular(root, y - TOP_MEAN, lower=True) if len(y) else y
    whitened = solve_triangular(root, drops.T, lower=True, check_finite=False).T if len(y) else drops
    # b is a priori N(mean, variance): its share of the covariance has rank one (Sherman-Morrison).
    mean, variance = setting.scale * _DEPTH_MEAN, (setting.scale * _DEPTH_SD) ** 2
    along, squares = whitened @ values, np.einsum("pn,pn->p", whitened, whitened)
    misfit = values @ values - 2.0 * mean * along + mean**2 * squares
    along = along - mean * squares
    stretch = 1.0 + variance * squares
    misfit = misfit - variance * along**2 / stretch
    return Fit(
        setting=setting,
        root=root,
        values=values,
        drops=whitened,
        depth=mean + variance * along / stretch,
        depth_variance=variance / stretch,
        log_evidence=-0.5 * (misfit + np.log(stretch)) - np.log(np.diag(root)).sum(),
    )


def alike(left: Array, right: Array, axes: Axes) -> Array:
    """Matern-5/2 (n, m) of points (n, d) and (m, d); other categories are as far as a factor of e."""
    apart = left[:, None] - right[None]
    apart = np.where(axes.choices > 0, _CATEGORY_DISTANCE * (apart != 0), apart)
    return matern52(np.sqrt(np.sum(apart**2, axis=-1)) / _RESIDUAL_LENGTH)
