"""What a few noisy trials say about an accuracy surface: Bayesian averaging over unimodal, separable shapes.

Notation, with shapes. ``d`` knobs, each mapped to [0, 1] on its log scale; ``n`` observed points; ``P`` shapes drawn from
the prior; ``C`` candidate points.

    X   (n, d)  observed points                     z   (n,)    their values: 0 the best, -1 the worst that counts
    q   (P, n)  sum over knobs of (|x - peak| / width)^power, with a width of its own on either side of the peak
    s   (P, n)  drop of a shape below its own top, 1 - exp(-q): flat on top, a floor far away, separable in log accuracy
    a, b        level and depth of the surface, both Gaussian, integrated out in closed form
    K   (n, n)  residual and noise: tau^2 Matern-5/2 + sigma^2 I, plus the variance of ``a``

    z = a - b s(X) + residual(X) + noise

The residual keeps the belief right where the shape is wrong (two optima, a ridge): every (tau, sigma) of a small grid is
weighted with every shape by its evidence, so a shape counts only as far as the trials bear it out. With tau large and
no shape the model is a plain Gaussian process, which is one of the weighted components too.

Source: this project's own construction. Gaussian evidence and prediction as in Rasmussen & Williams, Gaussian Processes for
Machine Learning (2006), eq. 2.25-2.30 and 2.7; expected improvement over the value at the incumbent as in Jones et al. 1998.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.special import ndtr

__all__ = ["Belief", "Observations"]

Array = npt.NDArray[np.float64]

SHAPES = 3000
COMPONENTS = 300
PEAK_MARGIN = 0.05
WIDTHS = (0.05, 3.0)
POWERS = (1.0, 3.0)
LEVEL_MEAN, LEVEL_SD = 0.0, 0.5
DEPTH_MEAN, DEPTH_SD = 1.0, 0.5
NOISES = (0.01, 0.03, 0.1)
RESIDUALS = (0.02, 0.1, 0.3)
LENGTH = 0.3
CLIP = 6.0


@dataclass(frozen=True, slots=True)
class Observations:
    points: Array
    values: Array


def _drop(points, peak, low, high, power):
    q = np.zeros((len(peak), len(points)))
    for k in range(points.shape[1]):
        away = points[None, :, k] - peak[:, None, k]
        side = np.where(away < 0, -away / low[:, None, k], away / high[:, None, k])
        q += side ** power[:, None, k]
    return -np.expm1(-q)


def _matern(a, b):
    r = np.sqrt(5.0) / LENGTH * np.sqrt(np.maximum(((a[:, None] - b[None]) ** 2).sum(-1), 0))
    return (1 + r + r * r / 3) * np.exp(-r)


def standardise(values):
    finite = np.isfinite(values)
    if not finite.any():
        return np.full(len(values), -1.0), 1.0, 0.0
    best = values[finite].max()
    depth = np.where(finite, best - values, np.inf)
    pos = depth[finite & (depth > 0)]
    if len(pos) == 0:
        scale = 1.0
        return np.where(finite, 0.0, -1.0), scale, best
    scale = min(pos.max(), CLIP * np.median(pos))
    return -np.minimum(depth / scale, 1.0), scale, best


class Belief:
    def __init__(self, obs: Observations, rng: np.random.Generator):
        X = obs.points
        self.X = X
        self.n, self.d = n, d = X.shape
        z, self.scale, self.best = standardise(obs.values)
        self._fit(z, rng)

    def _fit(self, z, rng):
        d, n, X = self.d, self.n, self.X
        P = SHAPES
        self.peak = rng.uniform(-PEAK_MARGIN, 1 + PEAK_MARGIN, (P, d))
        lw = np.log(WIDTHS)
        self.low = np.exp(rng.uniform(*lw, (P, d)))
        self.high = np.exp(rng.uniform(*lw, (P, d)))
        self.power = rng.uniform(*POWERS, (P, d))
        S = _drop(X, self.peak, self.low, self.high, self.power)  # P,n
        S[0] = 0.0
        self.z = z
        base = _matern(X, X)
        logw, fits = [], []
        for tau in RESIDUALS:
            for sigma in NOISES:
                K = tau**2 * base + LEVEL_SD**2 + sigma**2 * np.eye(n)
                L = np.linalg.cholesky(K)
                zt = solve_triangular(L, z - LEVEL_MEAN, lower=True)
                st = -solve_triangular(L, S.T, lower=True).T  # P,n
                res = zt - DEPTH_MEAN * st
                ss = 1 + DEPTH_SD**2 * (st * st).sum(1)
                sr = (st * res).sum(1)
                logw.append(-0.5 * ((res * res).sum(1) - DEPTH_SD**2 * sr**2 / ss + np.log(ss)) - np.log(np.diag(L)).sum())
                fits.append((tau, sigma, L, DEPTH_MEAN + DEPTH_SD**2 * sr / ss, DEPTH_SD**2 / ss))
        lw = np.stack(logw)
        w = np.exp(lw - lw.max())
        w /= w.sum()
        self.ess = 1 / (w.sum(0) ** 2).sum()
        flat = np.argsort(w.ravel())[::-1][:COMPONENTS]
        self.kept = w.ravel()[flat].sum()
        self.noise = float((w.sum(1) @ np.array([f[1] for f in fits])))
        self.comp = []
        for h, (tau, sigma, L, b, vb) in enumerate(fits):
            idx = flat[(flat // P) == h] % P
            if len(idx):
                self.comp.append((w[h, idx] / self.kept, idx, tau, L, b[idx], vb[idx]))

    def compare(self, C, I):
        """Returns weights (M,), mean difference (M,C), sd (M,C) of f(C) - f(I) with I (d,), and mean."""
        pts = np.vstack([C, I[None]])
        W, D, V, Ms = [], [], [], []
        for w, idx, tau, L, b, vb in self.comp:
            sc = -_drop(pts, self.peak[idx], self.low[idx], self.high[idx], self.power[idx])
            so = -_drop(self.X, self.peak[idx], self.low[idx], self.high[idx], self.power[idx])
            z0 = idx == 0
            sc[z0] = 0
            so[z0] = 0
            kx = tau**2 * _matern(pts, self.X) + LEVEL_SD**2
            A = solve_triangular(L, kx.T, lower=True)  # n,C+1
            zt = solve_triangular(L, self.z - LEVEL_MEAN, lower=True)
            st = solve_triangular(L, so.T, lower=True)  # n,M
            phi = sc - st.T @ A
            m = LEVEL_MEAN + zt @ A + b[:, None] * phi
            kd = tau**2 * (2 - 2 * _matern(pts, I[None])[:, 0])
            Ad = A - A[:, -1:]
            v = np.maximum(kd - (Ad * Ad).sum(0), 0)[None] + vb[:, None] * (phi - phi[:, -1:]) ** 2
            W.append(w)
            D.append((m - m[:, -1:])[:, :-1])
            V.append(v[:, :-1])
            Ms.append(m[:, :-1])
        return np.concatenate(W), np.vstack(D), np.sqrt(np.vstack(V)), np.vstack(Ms)

    def mean(self, pts):
        w, _, _, m = self.compare(pts, pts[0])
        return w @ m

    def gain(self, C, I):
        w, d, s, _ = self.compare(C, I)
        s = np.maximum(s, 1e-9)
        u = d / s
        ei = d * ndtr(u) + s * np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi)
        regret = w @ np.maximum(d.max(1), 0)
        return w @ ei, regret
