"""Covariance functions of Gaussian processes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["matern52"]

Array = npt.NDArray[np.float64]


def matern52(distances: Array) -> Array:
    """Matern-5/2 with variance one at ``distances`` counted in length scales, any shape.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), eq. 4.17.
    """
    r = np.sqrt(5.0) * distances
    covariance: Array = (1.0 + r + r**2 / 3.0) * np.exp(-r)
    return covariance
