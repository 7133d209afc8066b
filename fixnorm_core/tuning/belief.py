"""What a few noisy trials say about an accuracy surface: averaging over shapes, and a Gaussian-process residual.

Notation, with shapes. ``d`` axes; ``n`` observed points; ``P`` shapes drawn from the prior of
:mod:`fixnorm_core.tuning.shapes`; ``m`` of them carry weight under one setting (k, tau, sigma); ``C`` points to ask.

    X   (n, d)  observed points                     y   (n,)    their values, as shares of one
    s   (P, n)  drop of a shape below its top       a, b        level of the top and depth of the surface
    K   (n, n)  tau^2 Matern-5/2 + var(a) + diag(sigma^2 + (kappa depth)^2)

    y = a - b s(X) + residual(X) + noise

``a`` and ``b`` are Gaussian and integrated out in closed form, so a shape costs no fit, only its evidence. The residual
keeps the belief right where no shape fits (two optima, a ridge): each setting of a grid is weighted by its evidence
with each shape, so that shapes count only as far as the trials bear them out. ``k`` scales depth, residual and noise
together, for objectives whose values are closer together than accuracies are. What a hopeless trial says is how far
away the peak is, roughly, not how deep it fell: values far below the best are taken to be less exact (``kappa``). A
trial that diverged says that a learning rate was above the peak, and nothing else.

Source: this project's own construction. Evidence and prediction of Gaussian models: Rasmussen and Williams, Gaussian
Processes for Machine Learning (2006), eq. 2.23-2.30 and 2.41-2.43.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular

from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.evidence import TOP_MEAN, TOP_SD, Fit, Setting, alike, fitted
from fixnorm_core.tuning.hints import Hints
from fixnorm_core.tuning.rungs import Rung
from fixnorm_core.tuning.shapes import Shapes
from fixnorm_core.tuning.units import Unit

__all__ = ["Belief", "Draws", "Observations"]

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

_SHAPES = 2000
# More components than this change no suggestion visibly and cost time.
_COMPONENTS = 400
# (value, prior weight)
_SCALES_OF_ACCURACY = ((1.0, 0.93), (0.2, 0.05), (0.04, 0.02))
_SCALES_OF_UNKNOWN = ((1.0, 0.5), (3.0, 0.25), (0.3, 0.25))
_NOISES = ((0.005, 0.4), (0.012, 0.35), (0.03, 0.25))
_RESIDUALS = ((0.01, 0.6), (0.04, 0.3), (0.15, 0.1))
_RESIDUALS_OF_OTHER_SCALES = ((0.04, 1.0),)
# A shape that does not explain a divergence may still be right.
_CHANCE_DIVERGENCE = 0.02
# Beyond this, differences of values would overflow.
_HUGE = 1e100
_JITTER = 1e-8


@dataclass(frozen=True, slots=True)
class Observations:
    """What finished trials say.

    Attributes:
        points: (n, d), coordinates on the axes; points outside a range are used as they are.
        values: (n,), larger is better, in any unit; a value that is not finite counts as diverged.
        diverged: (n,), trials whose value says nothing but that a cliff was passed.
    """

    points: Array
    values: Array
    diverged: Flags

    @property
    def passed_cliff(self) -> Flags:
        """(n,), diverged by flag or by a value that is infinite, NaN or too large to calculate with."""
        return self.diverged | ~(np.abs(self.values) < _HUGE)


@dataclass(frozen=True, slots=True)
class Draws:
    """Surfaces drawn from a belief, free of noise.

    Attributes:
        values: (S, C), each surface at each point, in the objective's unit; larger is better.
        noise: (S,), the standard deviation of a run that each surface goes with.
    """

    values: Array
    noise: Array

    @property
    def regrets(self) -> Array:
        """(S, C), how much each point lacks of its surface's best one."""
        regrets: Array = self.values.max(axis=1, keepdims=True) - self.values
        return regrets


@dataclass(frozen=True, slots=True)
class _Component:
    """The shapes of one fit that carry weight."""

    fit: Fit
    weights: Array  # (m,)
    shapes: Shapes


@dataclass(frozen=True, slots=True)
class Belief:
    """The posterior over surfaces. Built by :meth:`learn`; immutable.

    Attributes:
        observations: What it was learned from, imagined points not included.
        noise: Posterior mean of the seed noise's standard deviation, in the objective's unit.
    """

    observations: Observations
    noise: float
    _axes: Axes
    _unit: Unit
    _points: Array
    _y: Array
    _prior: Shapes
    _leaning: Array
    _components: tuple[_Component, ...]

    @classmethod
    def learn(
        cls,
        observations: Observations,
        axes: Axes,
        *,
        rng: np.random.Generator,
        hints: Hints | None = None,
        rung: Rung | None = None,
    ) -> Self:
        """Weighs shapes drawn by ``rng`` by how well they explain the observations (there may be none).

        Args:
            observations: ``n`` finished trials.
            axes: The ``d`` searched parameters.
            rng: Draws the shapes.
            hints: Points that are probably near the peak.
            rung: Runs that were seen for their first epochs.
        """
        prior = Shapes.draw(_SHAPES, axes, rng=rng, hints=hints)
        known = ~observations.passed_cliff
        unit = Unit.of(observations.values[known])
        points, y = observations.points[known], unit.shares(observations.values[known])
        leaning = _divergence(prior, observations, axes)
        if rung is not None:
            leaning = leaning + rung.log_evidence(prior, axes, finals=observations.values[known])
        components = _weigh(prior, leaning, axes, points, y, unit)
        sigma = sum(float(part.weights.sum()) * part.fit.setting.sigma for part in components)
        return cls(observations, sigma * unit.scale, axes, unit, points, y, prior, leaning, components)

    def imagine(self, points: Array) -> Belief:
        """The belief if each of ``points`` (m, d) were observed at its expected value: what to make of running trials.

        Source: the "Kriging believer" of Ginsbourger, Le Riche and Carraro (2010), section 4.2.
        """
        if not len(points):
            return self
        seen = np.vstack([self._points, points])
        y = np.concatenate([self._y, self._mean(points)])
        components = _weigh(self._prior, self._leaning, self._axes, seen, y, self._unit)
        return replace(self, _points=seen, _y=y, _components=components)

    def expected(self, points: Array) -> Array:
        """Posterior mean (C,) of the noise-free surface at ``points`` (C, d), in the objective's unit."""
        return self._unit.values(self._mean(points))

    def draw(self, points: Array, count: int, *, rng: np.random.Generator) -> Draws:
        """Draws ``count`` surfaces at ``points`` (C, d)."""
        weights = np.concatenate([part.weights for part in self._components])
        # Evenly spaced quantiles: less chance in it than in independent draws (systematic resampling)
        quantiles = (np.arange(count) + rng.random()) / count
        drawn = np.minimum(np.searchsorted(np.cumsum(weights) / weights.sum(), quantiles), len(weights) - 1)
        values, noise, begin, done = np.empty((count, len(points))), np.empty(count), 0, 0
        likeness = alike(points, points, self._axes)
        for part in self._components:
            own = drawn[(drawn >= begin) & (drawn < begin + len(part.weights))] - begin
            begin += len(part.weights)
            if len(own):
                rows = slice(done, done + len(own))
                values[rows] = self._draw_from(part, own, points, likeness, rng)
                noise[rows] = part.fit.setting.sigma
                done += len(own)
        return Draws(self._unit.values(values), self._unit.scale * noise)

    def _mean(self, points: Array) -> Array:
        total = np.zeros(len(points))
        for part in self._components:
            fit = part.fit
            projections = self._projections(fit, points)
            innovations = -part.shapes.drop(points) - fit.drops @ projections
            total += part.weights @ (TOP_MEAN + fit.values @ projections + fit.depth[:, None] * innovations)
        return total

    def _draw_from(
        self, part: _Component, own: Indices, points: Array, likeness: Array, rng: np.random.Generator
    ) -> Array:
        """Surfaces (m, C) of the shapes ``own`` (m,) of one component."""
        fit, setting = part.fit, part.fit.setting
        shapes, place = np.unique(own, return_inverse=True)
        depth = (fit.depth[own] + np.sqrt(fit.depth_variance[own]) * rng.standard_normal(len(own)))[:, None]
        projections = self._projections(fit, points)
        drops = -part.shapes.take(shapes).drop(points)[place]
        means = TOP_MEAN + depth * drops + (fit.values - depth * fit.drops[own]) @ projections
        covariance = setting.tau**2 * likeness + TOP_SD**2 - projections.T @ projections
        root = cholesky(covariance + _JITTER * setting.scale**2 * np.eye(len(points)), lower=True)
        drawn: Array = means + rng.standard_normal(means.shape) @ root.T
        return drawn

    def _projections(self, fit: Fit, points: Array) -> Array:
        """root^-1 k(X, points), (n, C)."""
        cross = fit.setting.tau**2 * alike(self._points, points, self._axes) + TOP_SD**2
        solved: Array = solve_triangular(fit.root, cross, lower=True) if len(cross) else cross
        return solved


def _weigh(prior: Shapes, leaning: Array, axes: Axes, points: Array, y: Array, unit: Unit) -> tuple[_Component, ...]:
    """The heaviest components given shares ``y`` at ``points``, and what else (P,) speaks for each shape."""
    drops = -prior.drop(points)
    likeness = alike(points, points, axes)
    fits = [fitted(setting, likeness, y, drops) for setting in _settings(known=unit.known)]
    prior_weights = np.log([fit.setting.weight for fit in fits])
    log_weights = np.stack([fit.log_evidence for fit in fits]) + prior_weights[:, None] + leaning
    weights = np.exp(log_weights - log_weights.max())
    kept = np.zeros(weights.size, dtype=bool)
    kept[np.argpartition(weights.ravel(), -_COMPONENTS)[-_COMPONENTS:]] = True
    kept = kept.reshape(weights.shape)
    weights /= weights[kept].sum()
    parts = ((fit, weight, np.flatnonzero(keep)) for fit, weight, keep in zip(fits, weights, kept, strict=True))
    return tuple(_component(fit, prior, weight, keep) for fit, weight, keep in parts if len(keep))


def _divergence(prior: Shapes, seen: Observations, axes: Axes) -> Array:
    """(P,), log-likelihood of the divergences among ``seen``."""
    above = prior.drop_above(seen.points[seen.passed_cliff], cliffs=axes.cliffs)
    likelihood: Array = np.log(_CHANCE_DIVERGENCE + (1.0 - _CHANCE_DIVERGENCE) * above).sum(axis=1)
    return likelihood


def _settings(*, known: bool) -> Iterator[Setting]:
    scales = _SCALES_OF_ACCURACY if known else _SCALES_OF_UNKNOWN
    for place, (scale, a) in enumerate(scales):
        residuals = _RESIDUALS if place == 0 else _RESIDUALS_OF_OTHER_SCALES
        for (tau, b), (sigma, c) in itertools.product(residuals, _NOISES):
            yield Setting(scale=scale, tau=scale * tau, sigma=scale * sigma, weight=a * b * c)


def _component(fit: Fit, prior: Shapes, weights: Array, kept: Indices) -> _Component:
    own = replace(
        fit,
        drops=fit.drops[kept],
        depth=fit.depth[kept],
        depth_variance=fit.depth_variance[kept],
        log_evidence=fit.log_evidence[kept],
    )
    return _Component(fit=own, weights=weights[kept], shapes=prior.take(kept))
