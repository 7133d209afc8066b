"""What a few noisy trials say about an accuracy surface: averaging over shapes, and a Gaussian-process residual.

Notation, with shapes. ``d`` knobs, each mapped to [0, 1] on its log scale; ``n`` observed points; ``P`` shapes drawn
from the prior of :mod:`fixnorm_core.tuning.shapes`; ``m`` of them carry weight under one (tau, sigma); ``C`` points.

    X   (n, d)  observed points                     z   (n,)    their values: 0 the best, -1 the worst that counts
    s   (P, n)  drop of a shape below its top       a, b        level of the top and depth of the surface
    K   (n, n)  tau^2 Matern-5/2 + sigma^2 I + var(a)

    z = a - b s(X) + residual(X) + noise

``a`` and ``b`` are Gaussian and integrated out in closed form, so a shape costs no fit, only its evidence. The residual
keeps the belief right where no shape fits (two optima, a ridge): each (tau, sigma) of a grid is weighted by its
evidence with each shape, so that shapes count only as far as the trials bear them out. One shape is no shape (s = 0),
which makes a plain Gaussian process one of the components.

Source: this project's own construction. Evidence and prediction of Gaussian models: Rasmussen and Williams, Gaussian
Processes for Machine Learning (2006), eq. 2.23-2.30 and 2.41-2.43. Expected improvement: Jones, Schonlau and Welch
(1998), eq. 15, here of the difference to the incumbent, so that what both points share cancels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular
from scipy.special import ndtr

from fixnorm_core.tuning.shapes import Shapes

__all__ = ["Belief", "Observations", "standardize"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_SHAPES = 3000
# More components than this change no suggestion visibly and cost time.
_COMPONENTS = 300
_LEVEL_SD = 0.3
_DEPTH_MEAN, _DEPTH_SD = 1.0, 0.5
_NOISES = (0.01, 0.03, 0.1, 0.3)
_RESIDUALS = (0.05, 0.2, 0.6)
_RESIDUAL_LENGTH = 0.3
# Depths beyond this many times the median depth say "hopeless", not how much.
_HOPELESS = 4.0
# Beyond this, differences of values would overflow.
_HUGE = 1e100
# Keeps a variance of zero (the incumbent against itself) from dividing zero by zero.
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Observations:
    """What finished trials say.

    Attributes:
        points: (n, d), in units of the box; points outside [0, 1] are used as they are.
        values: (n,), larger is better, in any unit; a value that is not finite counts as diverged.
        diverged: (n,), trials whose value says nothing but that a cliff was passed.
        cliff_knobs: (d,), the knobs that can have been too high where a trial diverged.
    """

    points: Array
    values: Array
    diverged: Flags
    cliff_knobs: Flags

    @property
    def passed_cliff(self) -> Flags:
        """(n,), diverged by flag or by a value that is infinite, NaN or too large to calculate with."""
        return self.diverged | ~(np.abs(self.values) < _HUGE)


@dataclass(frozen=True, slots=True)
class Standardized:
    """Values with unit and outliers taken out.

    Attributes:
        values: (n,), in [-1, 0]: 0 the best, -1 hopeless or diverged.
        scale: How much of the original unit one is; 0 when no two values differ.
    """

    values: Array
    scale: float


def standardize(values: Array, *, passed_cliff: Flags) -> Standardized:
    """Maps values (n,) to [-1, 0] by their depth below the best, winsorized at a multiple of the median depth."""
    depths = np.full(len(values), np.inf)
    known = ~passed_cliff
    if known.any():
        depths[known] = values[known].max() - values[known]
    below = depths[known & (depths > 0)]
    scale = float(min(below.max(), _HOPELESS * np.median(below))) if below.size else 0.0
    shares = np.minimum(depths / scale, 1.0) if scale > 0 else np.where(known, 0.0, 1.0)
    return Standardized(values=-shares, scale=scale)


@dataclass(frozen=True, slots=True)
class _Fit:
    """What the observations make of ``m`` shapes under one (tau, sigma)."""

    tau: float
    root: Array  # (n, n) lower Cholesky factor of K
    values: Array  # (n,) root^-1 z
    drops: Array  # (m, n) root^-1 (-s)
    log_evidence: Array  # (m,)
    depth: Array  # (m,) posterior mean of b
    depth_variance: Array  # (m,)


@dataclass(frozen=True, slots=True)
class _Component:
    """The shapes of one fit that carry weight."""

    fit: _Fit
    weights: Array  # (m,)
    shapes: Shapes
    shapeless: Flags  # (m,) the component that is a plain Gaussian process


@dataclass(frozen=True, slots=True)
class Belief:
    """The posterior over surfaces. Built by :meth:`learn`; immutable.

    Attributes:
        observations: What it was learned from, imagined points not included.
        noise: Posterior mean of the seed noise's standard deviation, in the values' unit; 0 while no two values differ.
    """

    observations: Observations
    noise: float
    _scale: float
    _points: Array
    _z: Array
    _prior: Shapes
    _components: tuple[_Component, ...]

    @classmethod
    def learn(cls, observations: Observations, *, rng: np.random.Generator) -> Self:
        """Weighs shapes drawn by ``rng`` by how well they explain the observations (there may be none)."""
        prior = Shapes.draw(_SHAPES, knobs=observations.points.shape[1], rng=rng)
        standard = standardize(observations.values, passed_cliff=observations.passed_cliff)
        components, sigma = _weigh(prior, observations, observations.points, standard.values)
        return cls(
            observations=observations,
            noise=sigma * standard.scale,
            _scale=standard.scale,
            _points=observations.points,
            _z=standard.values,
            _prior=prior,
            _components=components,
        )

    def imagine(self, points: Array) -> Belief:
        """The belief if each of ``points`` (m, d) were observed at its expected value: what to make of running trials.

        Source: the "Kriging believer" of Ginsbourger, Le Riche and Carraro (2010), section 4.2.
        """
        if not len(points):
            return self
        seen = np.vstack([self._points, points])
        z = np.concatenate([self._z, self._mean(points)])
        components, _ = _weigh(self._prior, self.observations, seen, z)
        return replace(self, _points=seen, _z=z, _components=components)

    def incumbent(self) -> Array:
        """The observed point (d,) with the highest expected value; of imagined points if none is observed."""
        known = len(self.observations.points) or len(self._points)
        points = self._points[:known]
        best: Array = points[int(np.argmax(self._mean(points)))]
        return best

    def gain(self, points: Array, *, over: Array) -> Array:
        """Expected improvement (C,) of the noise-free surface at ``points`` (C, d) over ``over`` (d,), standardized."""
        total = np.zeros(len(points))
        for weights, difference, sd in self._differences(points, over):
            u = difference / sd
            total += weights @ (difference * ndtr(u) + sd * np.exp(-0.5 * u * u) / np.sqrt(2.0 * np.pi))
        return total

    def regret(self, points: Array, *, of: Array) -> float:
        """What knowing the surface would be expected to gain over ``of`` (d,), in the values' unit.

        The expected gain of each component's own best of ``points`` (C, d), or that of the best single point where the
        uncertainty of the residual makes it the larger one.
        """
        total = 0.0
        for weights, difference, _ in self._differences(points, of):
            total += float(weights @ np.maximum(difference.max(axis=1), 0.0))
        return max(total, float(self.gain(points, over=of).max())) * self._scale

    def expected(self, points: Array) -> Array:
        """Posterior mean (C,) of the noise-free surface at ``points`` (C, d), in the values' unit."""
        known = self.observations.values[~self.observations.passed_cliff]
        best: Array = known.max() + self._scale * self._mean(points)
        return best

    def _mean(self, points: Array) -> Array:
        total = np.zeros(len(points))
        for component in self._components:
            means, _, _ = self._predict(component, points)
            total += component.weights @ means
        return total

    def _differences(self, points: Array, reference: Array) -> Iterator[tuple[Array, Array, Array]]:
        """Weights (m,), means and sds (m, C) of the surface at ``points`` less that at ``reference``, fit by fit."""
        both = np.vstack([points, reference[None]])
        likeness = _matern(both, reference[None])[:, 0]
        for component in self._components:
            means, innovations, projections = self._predict(component, both)
            residual = 2.0 * component.fit.tau**2 * (1.0 - likeness)
            residual -= np.sum((projections - projections[:, -1:]) ** 2, axis=0)
            depth = component.fit.depth_variance[:, None] * (innovations - innovations[:, -1:]) ** 2
            sd = np.sqrt(np.maximum(residual, 0.0) + depth + _TINY)
            yield component.weights, (means - means[:, -1:])[:, :-1], sd[:, :-1]

    def _predict(self, component: _Component, points: Array) -> tuple[Array, Array, Array]:
        """Means (m, C), what a unit of depth adds to them (m, C), and root^-1 k(X, points) (n, C)."""
        fit = component.fit
        cross = fit.tau**2 * _matern(self._points, points) + _LEVEL_SD**2
        projections = solve_triangular(fit.root, cross, lower=True)
        drops = np.where(component.shapeless[:, None], 0.0, -component.shapes.drop(points))
        innovations = drops - fit.drops @ projections
        means = fit.values @ projections + fit.depth[:, None] * innovations
        return means, innovations, projections


def _weigh(prior: Shapes, seen: Observations, points: Array, z: Array) -> tuple[tuple[_Component, ...], float]:
    """The heaviest components given values ``z`` at ``points``, and the expected sigma."""
    drops = -prior.drop(points)
    cliff = np.flatnonzero(seen.passed_cliff)
    drops[:, cliff] = -prior.drop_above(points[cliff], knobs=seen.cliff_knobs)
    drops[0] = 0.0
    likeness = _matern(points, points)
    grid = [(tau, sigma) for tau in _RESIDUALS for sigma in _NOISES]
    fits = [_fit(likeness, z, drops, tau=tau, sigma=sigma) for tau, sigma in grid]
    evidence = np.stack([fit.log_evidence for fit in fits])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    kept = np.zeros(weights.size, dtype=bool)
    kept[np.argpartition(weights.ravel(), -_COMPONENTS)[-_COMPONENTS:]] = True
    kept = kept.reshape(weights.shape)
    components = tuple(
        _component(fit, prior, weight, np.flatnonzero(keep))
        for fit, weight, keep in zip(fits, weights / weights[kept].sum(), kept, strict=True)
    )
    expected_sigma = float(weights.sum(axis=1) @ [sigma for _, sigma in grid])
    return tuple(component for component in components if len(component.weights)), expected_sigma


def _fit(likeness: Array, z: Array, drops: Array, *, tau: float, sigma: float) -> _Fit:
    covariance = tau**2 * likeness + _LEVEL_SD**2 + sigma**2 * np.eye(len(z))
    root = cholesky(covariance, lower=True)
    values = solve_triangular(root, z, lower=True)
    whitened = solve_triangular(root, drops.T, lower=True).T
    # b is a priori N(mean, variance): its share of the covariance has rank one (Sherman-Morrison).
    left = values - _DEPTH_MEAN * whitened
    along = np.sum(whitened * left, axis=1)
    stretch = 1.0 + _DEPTH_SD**2 * np.sum(whitened**2, axis=1)
    misfit = np.sum(left**2, axis=1) - _DEPTH_SD**2 * along**2 / stretch
    return _Fit(
        tau=tau,
        root=root,
        values=values,
        drops=whitened,
        log_evidence=-0.5 * (misfit + np.log(stretch)) - np.log(np.diag(root)).sum(),
        depth=_DEPTH_MEAN + _DEPTH_SD**2 * along / stretch,
        depth_variance=_DEPTH_SD**2 / stretch,
    )


def _component(fit: _Fit, prior: Shapes, weights: Array, kept: npt.NDArray[np.intp]) -> _Component:
    return _Component(
        fit=replace(fit, drops=fit.drops[kept], depth=fit.depth[kept], depth_variance=fit.depth_variance[kept]),
        weights=weights[kept],
        shapes=prior.take(kept),
        shapeless=kept == 0,
    )


def _matern(left: Array, right: Array) -> Array:
    """Matern-5/2 (n, m) of points (n, d) and (m, d); Rasmussen and Williams (2006), eq. 4.17."""
    squared = np.sum((left[:, None] - right[None]) ** 2, axis=-1)
    r = np.sqrt(5.0 * squared) / _RESIDUAL_LENGTH
    matern: Array = (1.0 + r + r**2 / 3.0) * np.exp(-r)
    return matern
