"""The optimizer of a trial."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from fixnorm_core.method.groups import REST_LR_FACTOR, parameter_groups
from fixnorm_core.method.roles import Roles
from fixnorm_core.method.step import FixNorm
from fixnorm_core.spec import Method, OptimizerSpec, ScheduleSpec, TrainingSpec, TrialSpec

__all__ = ["OptimizerFactory", "build_optimizer", "rest_lr_factor", "schedule_of"]

# Measured (benchmarks/accuracy.md, "The schedule, and the rate of what is not held")
_FIXED_NORM_POWER = 0.5


class OptimizerFactory(Protocol):
    """Makes the optimizer of a trial; :func:`build_optimizer` is the one that trials use."""

    def __call__(self, trial: TrialSpec, model: nn.Module, *, roles: Roles) -> torch.optim.Optimizer:
        """Of the model's trainable parameters, whose roles are measured already."""


_ADAM_BETA2 = 0.999


def build_optimizer(trial: TrialSpec, model: nn.Module, *, roles: Roles) -> torch.optim.Optimizer:
    """The optimizer that a trial asks for, at its base learning rate.

    ``method: fixnorm`` wraps the base optimizer in :class:`fixnorm_core.FixNorm` and decays nothing; what is not held
    has its own learning rate, by the ``lr_factor`` of its group (:func:`rest_lr_factor`). ``method:
    weight_decay`` is the base optimizer alone; it decays tensors of two or more dimensions, and neither biases nor
    normalization gains, as is common practice (He et al., arXiv 1812.01187, section 3.1, "no bias decay").
    """
    spec, rate = trial.training.optimizer, trial.params["lr"]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trial.method is Method.FIXNORM:
        factor = rest_lr_factor(trial.training)
        groups = parameter_groups(model, roles, lr=rate, rest_lr_factor=factor)
        base = _base(spec, groups, rate=rate)
        return FixNorm(
            base, model, roles=roles, fc_norm=trial.params["fc_norm"], weight_norm=trial.training.weight_norm
        )
    decay = trial.params["weight_decay"]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.dim() >= 2], "weight_decay": decay},
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    return _base(spec, groups, rate=rate)


def rest_lr_factor(training: TrainingSpec) -> float:
    """Factor on the learning rate of what fixed-norm training does not hold (``TrainingSpec.rest_lr_factor``)."""
    if training.rest_lr_factor is not None:
        return training.rest_lr_factor
    norm = training.weight_norm
    return 1.0 if norm == "init" or training.optimizer.name != "sgd" else REST_LR_FACTOR / norm**2


def schedule_of(trial: TrialSpec) -> ScheduleSpec:
    """The trial's schedule with its power settled (``ScheduleSpec.power``)."""
    schedule = trial.training.schedule
    if schedule.power is not None:
        return schedule
    power = _FIXED_NORM_POWER if trial.method is Method.FIXNORM else 1.0
    return schedule.model_copy(update={"power": power})


def _base(spec: OptimizerSpec, groups: list[dict[str, Any]], *, rate: float) -> torch.optim.Optimizer:
    # Fused: one pass over a weight in place of one for each operation. Of a step of 7 ms of a small network on a CPU,
    # torch's default took 0.5 ms and this takes a tenth of that (benchmarks/trainer_speed.md)
    if spec.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(spec.momentum, _ADAM_BETA2), fused=True)
    nesterov = spec.nesterov and spec.momentum > 0  # torch refuses Nesterov without momentum
    return torch.optim.SGD(groups, lr=rate, momentum=spec.momentum, nesterov=nesterov, fused=True)
