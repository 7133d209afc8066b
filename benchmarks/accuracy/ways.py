"""The ways to train that are compared: FixNorm with its choices, and weight decay on parts of the network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from fixnorm_core.method.roles import Roles
from fixnorm_core.method.step import FixNorm
from fixnorm_core.spec import TrialSpec

__all__ = ["Way"]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to train, with its knobs.

    Attributes:
        lr: The highest learning rate.
        fc_norm: Bound on the head in multiples of its first norm; None leaves it free. FixNorm only.
        weight_decay: FixNorm has none.
        decayed: What weight decay acts on: every weight, the scale-invariant ones, the head.
        hold: The norm at which scale-invariant weights are held: ``one`` for each, ``init`` its own at the start,
            ``filters`` the square root of its number of filters; ``no`` holds none.
        granularity: Of FixNorm.
        momentum_radial: Of FixNorm.
        head_lr: Factor on the head's learning rate.
        free_lr: Factor on that of the free parameters: gains, biases.
        bound_gates: Bound the free weights of two or more dimensions (squeeze-and-excitation) by ``fc_norm`` too.
        power: Of the schedule (``ScheduleSpec.power``).
        bound_gain: Bound the gains of the last normalization too, by the same ``fc_norm``.
    """

    lr: float
    fc_norm: float | None = None
    weight_decay: float = 0.0
    decayed: Literal["all", "scale_invariant", "head"] = "all"
    hold: Literal["one", "init", "filters", "no"] = "one"
    granularity: Literal["tensor", "filter"] = "tensor"
    momentum_radial: Literal["keep", "remove"] = "keep"
    head_lr: float = 1.0
    free_lr: float = 1.0
    bound_gain: bool = False
    bound_gates: bool = False
    power: float = 1.0

    def __call__(self, trial: TrialSpec, model: nn.Module, *, roles: Roles) -> torch.optim.Optimizer:
        """The optimizer: SGD of the trial, decayed or held as this way says."""
        base = torch.optim.SGD(
            self._groups(model, roles),
            lr=self.lr,
            momentum=trial.training.optimizer.momentum,
            nesterov=trial.training.optimizer.nesterov,
            fused=True,
        )
        if self.weight_decay or self.hold == "no":
            return base
        if self.hold == "filters":
            _rescale(model, roles)
        if self.bound_gain:
            roles = replace(roles, head=(*roles.head, *_last_gains(model)))
        if self.bound_gates:
            gates = tuple(name for name in roles.free if model.get_parameter(name).dim() >= 2)
            roles = replace(roles, head=(*roles.head, *gates))
        return FixNorm(
            base,
            model,
            roles=roles,
            fc_norm=self.fc_norm,
            weight_norm=1.0 if self.hold == "one" else "init",
            granularity=self.granularity,
            momentum_radial=self.momentum_radial,
        )

    def _groups(self, model: nn.Module, roles: Roles) -> list[dict[str, object]]:
        named = dict(model.named_parameters())
        kinds = {
            "scale_invariant": [named[name] for name in roles.scale_invariant],
            "head": [named[name] for name in roles.head],
            "free": [named[name] for name in roles.free],
        }
        factors = {"scale_invariant": 1.0, "head": self.head_lr, "free": self.free_lr}
        return [
            {
                "params": parameters,
                "weight_decay": self.weight_decay if kind != "free" and self.decayed in (kind, "all") else 0.0,
                "lr_factor": factors[kind],
            }
            for kind, parameters in kinds.items()
            if parameters
        ]


@torch.no_grad()
def _rescale(model: nn.Module, roles: Roles) -> None:
    for name in roles.scale_invariant:
        weight = model.get_parameter(name)
        weight.mul_(math.sqrt(len(weight)) / weight.norm())


def _last_gains(model: nn.Module) -> tuple[str, ...]:
    """Of the normalizations of small_resnet whose outputs are added and averaged into what the head is fed."""
    norms = [name for name, module in model.named_modules() if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm))]
    block = norms[-1].rpartition(".shortcut")[0]
    last = [name for name in norms if name.startswith(f"{block}.residual")][-1]
    return f"{last}.weight", f"{norms[-1]}.weight"
