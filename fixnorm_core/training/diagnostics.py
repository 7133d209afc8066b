"""How weights turn and how long features are, measured beside training, with one wait for the device an epoch.

Formulas: docs/method.md, "Diagnostics"; effective learning rate after van Laarhoven (arXiv 1706.05350), rotation per
step as in Kosson et al. (arXiv 2305.17212).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fixnorm_core.method.roles import Roles
from fixnorm_core.reports import EpochDiagnostics, RoleDiagnostics
from fixnorm_core.training.features import linear_head, watched_inputs

__all__ = ["Diagnostics", "angles_between"]

_MEASURED_STEPS = 4
# Measuring costs a small network up to 12 % of a step (benchmarks/diagnostics_overhead.md), so one in sixteen at most
_STEPS_PER_MEASURED = 16
_ROLES: tuple[Literal["scale_invariant", "head", "free"], ...] = ("scale_invariant", "head", "free")


class Diagnostics:
    """Watches one run. Changes nothing of it, draws no random numbers, and forgets an epoch when the next begins."""

    def __init__(self, model: nn.Module, roles: Roles, *, evaluated: nn.Module) -> None:
        """Takes the model that is trained, and the one that is validated, which may be an average of it."""
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._weights = {
            role: [trained[name] for name in getattr(roles, role) if name in trained and trained[name].numel() > 1]
            for role in _ROLES
        }
        self._head = linear_head(evaluated, roles)
        self._gains = _last_gains(evaluated)
        self._measured: frozenset[int] = frozenset()
        self._angles: list[Tensor] = []
        self._feature_norms: list[Tensor] = []

    def begin(self, *, steps: int) -> None:
        """Starts an epoch of so many steps; a few of them, evenly spread, are measured."""
        count = min(_MEASURED_STEPS, max(1, steps // _STEPS_PER_MEASURED))
        self._measured = frozenset((2 * place + 1) * steps // (2 * count) for place in range(count))
        self._angles, self._feature_norms = [], []

    @contextmanager
    def watching(self, index: int) -> Iterator[None]:
        """Around an optimizer step, counted from 0 in its epoch."""
        if index not in self._measured:
            yield
            return
        weights = [weight.detach() for role in _ROLES for weight in self._weights[role]]
        before = [weight.clone() for weight in weights]
        yield
        if weights:
            self._angles.append(angles_between(before, weights))

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Around the evaluation of the validation split."""
        if self._head is None:
            yield
            return
        with watched_inputs(self._head, lambda features: self._feature_norms.append(features.norm(dim=1))):
            yield

    def summary(self, *, optimizer: torch.optim.Optimizer) -> EpochDiagnostics:
        """What was seen since the epoch began.

        Args:
            optimizer: Of the model, with the learning rates of the epoch's last step.
        """
        rates = {weight: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
        counts = [len(self._weights[role]) for role in _ROLES]
        angles = torch.stack(self._angles).double().cpu() if self._angles else torch.empty(0, sum(counts))
        by_role = torch.split_with_sizes(angles, counts, dim=1)
        scale_invariant, head, free = (
            RoleDiagnostics(
                rotation=_number(turned.nanmean()),
                effective_learning_rate=_effective_rate(self._weights[role], rates=rates),
            )
            for role, turned in zip(_ROLES, by_role, strict=True)
        )
        return EpochDiagnostics(
            scale_invariant=scale_invariant,
            head=head,
            free=free,
            feature_norm=_number(torch.cat(self._feature_norms).mean()) if self._feature_norms else None,
            last_gain=_number(self._gains.detach().square().mean().sqrt()) if self._gains is not None else None,
        )


def angles_between(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The angle between each tensor and its partner of the same shape, taken as vectors.

    ``2 atan2(‖u − v‖, ‖u + v‖)`` of the unit vectors, which stays exact where the cosine is 1 to all its digits (W.
    Kahan, "How Futile are Mindless Assessments of Roundoff", section 12).

    Args:
        first: Tensors of one floating dtype.
        second: Likewise, in the same order.

    Returns:
        Radians, shape (tensors,); NaN where one of the two is zero.
    """
    u, v = (torch._foreach_div(list(tensors), torch._foreach_norm(list(tensors))) for tensors in (first, second))
    sides = (torch._foreach_norm(torch._foreach_sub(u, v)), torch._foreach_norm(torch._foreach_add(u, v)))
    return 2 * torch.atan2(*(torch.stack(list(side)) for side in sides))


def _effective_rate(weights: Sequence[Tensor], *, rates: Mapping[Tensor, float]) -> float | None:
    """Median of ``lr / ‖W‖²`` over the weights that are not zero."""
    if not weights:
        return None
    norms = torch.stack(torch._foreach_norm([weight.detach() for weight in weights]))
    own = torch.tensor([rates.get(weight, 0.0) for weight in weights], dtype=torch.float64, device=norms.device)
    effective = own / norms.double().square()
    return _number(effective[effective.isfinite()].quantile(0.5)) if effective.isfinite().any() else None


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _last_gains(model: nn.Module) -> Tensor | None:
    kinds = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
    gains = [module.weight for module in model.modules() if isinstance(module, kinds)]
    return next((gain for gain in reversed(gains) if gain is not None), None)
