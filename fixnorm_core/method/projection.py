"""Holding norms: many weights at once, and one at a time as the reference for it.

Notation: ``W`` a weight, ``R`` its limit, ``m`` a momentum buffer of it; norms are Frobenius. Per filter, each stands
for one slice along dimension 0. ::

    W ← W · R / ‖W‖   or   W · min(1, R / ‖W‖)          m ← m − W ⟨W, m⟩ / R²

Nothing here reads a tensor's value back to the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["WeightGroup", "by_device_and_dtype", "filter_norms", "limits_by_name", "tensor_norm"]

_MOMENTA = ("momentum_buffer", "exp_avg")  # of torch.optim: SGD, RMSprop and Muon; the Adam family


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Weights of one device and dtype, with the norms they are held at or below.

    Attributes:
        names: Of the parameters.
        weights: The parameters themselves.
        limits: ``R`` of each, in at least fp32: a scalar for the whole tensor's norm, or of shape (filters, 1, ...) for
            each filter's.
        at_most: The limit is a bound that a smaller norm may stay below.
    """

    names: tuple[str, ...]
    weights: tuple[Tensor, ...]
    limits: tuple[Tensor, ...]
    at_most: bool

    @torch.no_grad()
    def project(self, *, foreach: bool) -> None:
        """Multiplies every weight in place so that its norm obeys its limit.

        Args:
            foreach: Multi-tensor; False takes one weight after the other, with the same result.
        """
        if not foreach:
            for weight, limit in zip(self.weights, self.limits, strict=True):
                factor = limit / _norm_like(weight, limit)
                weight.mul_(factor.clamp(max=1.0) if self.at_most else factor)
            return
        factors = torch._foreach_div(self.limits, self._norms())
        if self.at_most:
            torch._foreach_clamp_max_(factors, 1.0)
        torch._foreach_mul_(self.weights, factors)

    @torch.no_grad()
    def remove_radial(self, state: Mapping[Tensor, Mapping[str, Any]], *, foreach: bool) -> None:
        """Takes the part along the weight, which lies at its limit, out of every momentum buffer, in place.

        Args:
            state: The optimizer's, by parameter; weights without a buffer are passed over.
            foreach: Multi-tensor, as in :meth:`project`.
        """
        found = [
            (weight, limit, buffer)
            for weight, limit in zip(self.weights, self.limits, strict=True)
            if weight in state
            for buffer in (state[weight].get(key) for key in _MOMENTA)
            if isinstance(buffer, Tensor)
        ]
        if not found:
            return
        if not foreach:
            for weight, limit, buffer in found:
                buffer.addcmul_(weight, _radial_part(weight * buffer, limit, like=buffer), value=-1)
            return
        weights, limits, buffers = (list(column) for column in zip(*found, strict=True))
        products = torch._foreach_mul(weights, buffers)
        parts = [_radial_part(p, lim, like=b) for p, lim, b in zip(products, limits, buffers, strict=True)]
        torch._foreach_addcmul_(buffers, weights, parts, value=-1)

    def _norms(self) -> tuple[Tensor, ...]:
        if self.limits[0].dim() == 0:
            return tuple(torch._foreach_norm(self.weights, 2, dtype=self.limits[0].dtype))
        return tuple(_norm_like(weight, limit) for weight, limit in zip(self.weights, self.limits, strict=True))


def by_device_and_dtype(
    weights: Mapping[str, Tensor], *, limits: Mapping[str, Tensor], at_most: bool
) -> tuple[WeightGroup, ...]:
    """Groups the weights that have a limit, so that one call can treat each group."""
    names: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name in limits:
        names.setdefault((weights[name].device, weights[name].dtype), []).append(name)
    return tuple(
        WeightGroup(
            names=tuple(group),
            weights=tuple(weights[name] for name in group),
            limits=tuple(limits[name] for name in group),
            at_most=at_most,
        )
        for group in names.values()
    )


def limits_by_name(groups: Sequence[WeightGroup]) -> dict[str, Tensor]:
    """A copy of every limit, by parameter name."""
    return {name: limit.clone() for group in groups for name, limit in zip(group.names, group.limits, strict=True)}


def tensor_norm(weight: Tensor) -> Tensor:
    """Frobenius norm, a scalar in at least fp32."""
    return _norm(weight, dim=None)


def filter_norms(weight: Tensor) -> Tensor:
    """Frobenius norm of every slice along dimension 0, shape (filters, 1, ...), in at least fp32."""
    return _norm(weight, dim=tuple(range(1, weight.dim())))


def _norm(weight: Tensor, *, dim: tuple[int, ...] | None) -> Tensor:
    detached = weight.detach()
    dtype = torch.promote_types(detached.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(detached, dim=dim, keepdim=dim is not None, dtype=dtype)
    return norm


def _norm_like(weight: Tensor, limit: Tensor) -> Tensor:
    return filter_norms(weight) if limit.dim() else tensor_norm(weight)


def _radial_part(product: Tensor, limit: Tensor, *, like: Tensor) -> Tensor:
    """``⟨W, m⟩ / R²`` from the elementwise product of the two."""
    dims = tuple(range(1, product.dim())) if limit.dim() else tuple(range(product.dim()))
    dot = product.sum(dim=dims, keepdim=limit.dim() > 0, dtype=limit.dtype)
    return (dot / limit.square()).to(like.dtype)
