"""The optimizer of a trial."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from fixnorm_core.method.roles import Roles
from fixnorm_core.method.step import FixNorm
from fixnorm_core.spec import Method, OptimizerSpec, TrialSpec

__all__ = ["OptimizerFactory", "build_optimizer"]


class OptimizerFactory(Protocol):
    """Makes the optimizer of a trial; :func:`build_optimizer` is the one that trials use."""

    def __call__(self, trial: TrialSpec, model: nn.Module, *, roles: Roles) -> torch.optim.Optimizer:
        """Of the model's trainable parameters, whose roles are measured already."""


_ADAM_BETA2 = 0.999


def build_optimizer(trial: TrialSpec, model: nn.Module, *, roles: Roles) -> torch.optim.Optimizer:
    """The optimizer that a trial asks for, at its base learning rate.

    ``method: fixnorm`` wraps the base optimizer in :class:`fixnorm_core.FixNorm` and decays nothing. ``method:
    weight_decay`` is the base optimizer alone; it decays tensors of two or more dimensions, and neither biases nor
    normalization gains, as is common practice (He et al., arXiv 1812.01187, section 3.1, "no bias decay").
    """
    spec, rate = trial.training.optimizer, trial.params["lr"]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trial.method is Method.FIXNORM:
        base = _base(spec, [{"params": parameters, "weight_decay": 0.0}], rate=rate)
        return FixNorm(
            base, model, roles=roles, fc_norm=trial.params["fc_norm"], weight_norm=trial.training.weight_norm
        )
    decay = trial.params["weight_decay"]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.dim() >= 2], "weight_decay": decay},
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    return _base(spec, groups, rate=rate)


def _base(spec: OptimizerSpec, groups: list[dict[str, object]], *, rate: float) -> torch.optim.Optimizer:
    # Fused: one pass over a weight in place of one for each operation; measured, a tenth of the time of torch's default
    # on a small network, which is 7 % of a whole step (benchmarks/trainer_speed.md)
    if spec.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(spec.momentum, _ADAM_BETA2), fused=True)
    nesterov = spec.nesterov and spec.momentum > 0  # torch refuses Nesterov without momentum
    return torch.optim.SGD(groups, lr=rate, momentum=spec.momentum, nesterov=nesterov, fused=True)
