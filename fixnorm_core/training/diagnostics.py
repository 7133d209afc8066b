"""How weights turn and how long features are, measured beside training, with one wait for the device an epoch.

Formulas: docs/method.md, "Diagnostics"; effective learning rate after van Laarhoven (arXiv 1706.05350), rotation per
step as in Kosson et al. (arXiv 2305.17212).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fixnorm_core.method.roles import Roles
from fixnorm_core.reports import EpochDiagnostics, RoleDiagnostics
from fixnorm_core.training.features import linear_head, watched_inputs
from fixnorm_core.training.ranks import ALONE, Ranks

__all__ = ["Diagnostics", "angles_between"]

_MEASURED_STEPS = 4
# Measuring costs a small network up to 12 % of a step (benchmarks/diagnostics_overhead.md), so one in sixteen at most
_STEPS_PER_MEASURED = 16
_ROLES: tuple[Literal["scale_invariant", "head", "free"], ...] = ("scale_invariant", "head", "free")


@dataclass(frozen=True, slots=True)
class _Step:
    """One measured step. All weights of all roles, in the order of the roles.

    Attributes:
        angles: By which they turned, radians.
        norms: Before the step.
        rates: Their learning rates divided by this power of the norm are effective ones.
        powers: 2 where a step follows the gradient, which shrinks as the weight grows; 1 where it does not.
        growth: Norm of a step over ``lr`` times the gradient's; NaN where a step does not follow the gradient.
    """

    angles: Tensor
    norms: Tensor
    rates: tuple[float, ...]
    powers: tuple[int, ...]
    growth: tuple[float, ...]


class Diagnostics:
    """Watches one run. Changes nothing of it, draws no random numbers, and forgets an epoch when the next begins."""

    def __init__(
        self,
        model: nn.Module,
        roles: Roles,
        *,
        optimizer: torch.optim.Optimizer,
        evaluated: nn.Module,
        ranks: Ranks = ALONE,
    ) -> None:
        """Takes the model that is trained, with its optimizer, and the one that is validated, maybe its average."""
        self._ranks = ranks
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._weights = {
            role: [trained[name] for name in getattr(roles, role) if name in trained and trained[name].numel() > 1]
            for role in _ROLES
        }
        self._optimizer = optimizer
        self._head = linear_head(evaluated, roles)
        self._gains = [evaluated.get_parameter(name) for name in roles.last_gains]
        self._measured: frozenset[int] = frozenset()
        self._seen: list[_Step] = []
        self._feature_norms: list[Tensor] = []

    def begin(self, *, steps: int) -> None:
        """Starts an epoch of so many steps; a few of them, evenly spread, are measured."""
        count = min(_MEASURED_STEPS, max(1, steps // _STEPS_PER_MEASURED))
        self._measured = frozenset((2 * place + 1) * steps // (2 * count) for place in range(count))
        self._seen, self._feature_norms = [], []

    @contextmanager
    def watching(self, index: int) -> Iterator[None]:
        """Around an optimizer step, counted from 0 in its epoch, with its learning rates set."""
        if index not in self._measured:
            yield
            return
        weights = [weight.detach() for role in _ROLES for weight in self._weights[role]]
        before = [weight.clone() for weight in weights]
        rates, powers, growth = self._settings()
        yield
        if weights:
            norms = torch.stack(torch._foreach_norm(before))
            self._seen.append(_Step(angles_between(before, weights), norms, rates, powers, growth))

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Around the evaluation of the validation split."""
        if self._head is None:
            yield
            return
        with watched_inputs(self._head, lambda features: self._feature_norms.append(features.norm(dim=1))):
            yield

    def summary(self) -> EpochDiagnostics:
        """What was seen since the epoch began; a collective."""
        counts = [len(self._weights[role]) for role in _ROLES]
        angles, effective, gradients = (torch.split(table, counts, dim=1) for table in self._tables(sum(counts)))
        scale_invariant, head, free = (
            RoleDiagnostics(
                rotation=_number(angles[place].nanmean()),
                effective_learning_rate=_number(effective[place].nanmedian(dim=1).values.nanmean()) if count else None,
                gradient_norm=_number(gradients[place].nanmean()) if role == "scale_invariant" else None,
            )
            for place, (role, count) in enumerate(zip(_ROLES, counts, strict=True))
        )
        return EpochDiagnostics(
            scale_invariant=scale_invariant,
            head=head,
            free=free,
            feature_norm=self._feature_norm(),
            last_gain=_number(_flat(self._gains).square().mean().sqrt()) if self._gains else None,
        )

    def _feature_norm(self) -> float | None:
        if self._head is None:
            return None
        if self._ranks.count == 1:
            return _number(torch.cat(self._feature_norms).mean()) if self._feature_norms else None
        total = torch.zeros(2, dtype=torch.float64, device=self._ranks.device)  # of the norms, and how many there are
        for norms in self._feature_norms:
            total += torch.stack([norms.double().sum(), torch.full_like(total[0], len(norms))])
        self._ranks.add(total)
        return _number(total[0] / total[1])

    def _settings(self) -> tuple[tuple[float, ...], tuple[int, ...], tuple[float, ...]]:
        """Of every weight as its group has them now; what the optimizer does not train has the rate 0."""
        groups = {id(weight): group for group in self._optimizer.param_groups for weight in group["params"]}
        mine = [groups.get(id(weight), {"lr": 0.0}) for role in _ROLES for weight in self._weights[role]]
        return (
            tuple(float(group["lr"]) for group in mine),
            tuple(1 if "betas" in group else 2 for group in mine),
            tuple(_growth(group) for group in mine),
        )

    def _tables(self, weights: int) -> tuple[Tensor, Tensor, Tensor]:
        """Angles, effective learning rates and gradient norms, (steps, weights) each, NaN where there is none."""
        if not self._seen:
            return (torch.empty(0, weights),) * 3
        angles = torch.stack([step.angles for step in self._seen]).double().cpu()
        norms = torch.stack([step.norms for step in self._seen]).double().cpu()
        rates, powers, growth = (
            torch.tensor([getattr(step, name) for step in self._seen], dtype=torch.float64).reshape(norms.shape)
            for name in ("rates", "powers", "growth")
        )
        effective = _finite(rates / norms**powers)
        return angles, effective, _finite(angles / (effective * growth))


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


def _growth(group: Mapping[str, Any]) -> float:
    """How much longer momentum makes the steps of torch's SGD, for gradients that are independent; NaN for others.

    ``m ← αm + g`` has mean square ``‖g‖² / (1 − α²)``; Nesterov steps along ``g + αm``.
    """
    if "nesterov" not in group or "betas" in group or group.get("dampening"):
        return math.nan
    momentum = float(group["momentum"])
    if group["nesterov"]:
        return math.sqrt((1 + momentum) ** 2 + momentum**4 / (1 - momentum**2))
    return 1 / math.sqrt(1 - momentum**2)


def _finite(values: Tensor) -> Tensor:
    return values.where(values.isfinite(), math.nan)


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
