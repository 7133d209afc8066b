"""Parameter groups for fixed-norm training: what is held, and the rest at a learning rate of its own."""

from __future__ import annotations

from typing import Any

from torch import nn

from fixnorm_core.method.checks import parameters_named
from fixnorm_core.method.roles import Roles

__all__ = ["REST_LR_FACTOR", "parameter_groups"]

REST_LR_FACTOR = 8.0
"""At norm 1 the rate that suits the held weights is some ten times below that of usual training, which is too low for
the rest; measured in benchmarks/accuracy.md, "The schedule, and the rate of what is not held"."""


def parameter_groups(
    model: nn.Module, roles: Roles, *, lr: float, rest_lr_factor: float = REST_LR_FACTOR
) -> list[dict[str, Any]]:
    """Groups for the base optimizer of :class:`fixnorm_core.FixNorm`, without weight decay.

    Args:
        model: Its trained parameters are shared out; frozen ones are left out.
        roles: Of its parameters.
        lr: The learning rate of the scale-invariant weights.
        rest_lr_factor: That of all others (head, gains, biases, free weights), in multiples of ``lr``.

    Returns:
        Two groups, first the held one, each with its ``lr`` and, for who sets rates by hand, its ``lr_factor``.

    Raises:
        RolesError: If the roles name a parameter that the model does not have.
    """
    held = [weight for weight in parameters_named(model, roles.scale_invariant).values() if weight.requires_grad]
    known = {id(weight) for weight in held}
    rest = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in known]
    return [
        {"params": weights, "lr": lr * factor, "lr_factor": factor, "weight_decay": 0.0}
        for weights, factor in ((held, 1.0), (rest, rest_lr_factor))
    ]
