"""What :class:`fixnorm_core.FixNorm` refuses, before it changes anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from fixnorm_core.errors import FixNormError, RolesError, WeightsError

__all__ = [
    "OptimizerError",
    "check_momentum",
    "check_no_decay",
    "check_norms",
    "check_ownership",
    "check_same_limits",
    "check_settings",
    "parameters_named",
]


class OptimizerError(FixNormError):
    """A base optimizer or a setting that :class:`fixnorm_core.FixNorm` cannot work with."""

    code: ClassVar[str] = "invalid_optimizer"


def check_settings(*, fc_norm: object, weight_norm: object, momentum_radial: object, granularity: object) -> None:
    """Refuses a norm that is no number above zero, and an option that does not exist.

    Raises:
        OptimizerError: naming the setting, its value and what it can be.
    """
    for setting, value in (("fc_norm", fc_norm), ("weight_norm", weight_norm)):
        is_named = setting == "weight_norm" and value == "init"
        if value is not None and not is_named and not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise OptimizerError(f"{setting} is {value!r}; it is a number above zero, or None", f"Give {setting}=1.0")
    for setting, value, choices in (
        ("momentum_radial", momentum_radial, ("keep", "remove")),
        ("granularity", granularity, ("tensor", "filter")),
    ):
        if value not in choices:
            raise OptimizerError(
                f'{setting} is {value!r}; it is "{choices[0]}" or "{choices[1]}"', f'Give {setting}="{choices[0]}"'
            )


def check_no_decay(groups: Sequence[Mapping[str, Any]], *, of: str) -> None:
    """Refuses groups of parameters that decay.

    Args:
        groups: Of an optimizer, or of its ``state_dict``.
        of: What the groups are, to begin the message with.

    Raises:
        OptimizerError: naming the decay.
    """
    for group in groups:
        if group.get("weight_decay"):
            raise OptimizerError(
                f"{of} has weight_decay {group['weight_decay']:g}; FixNorm replaces weight decay by fixed norms and "
                "trains with none",
                "Set it to zero: weight_decay=0",
            )


def check_momentum(optimizer: Optimizer) -> None:
    """Refuses a base without momentum, from which nothing radial could be removed.

    Raises:
        OptimizerError: naming the base.
    """
    if not any(group.get("momentum") or group.get("betas") for group in optimizer.param_groups):
        raise OptimizerError(
            f'momentum_radial is "remove", but {type(optimizer).__name__} has no momentum it could be removed from',
            'Give the base a momentum, or leave momentum_radial="keep"',
        )


def check_ownership(optimizer: Optimizer, weights: Sequence[Tensor]) -> None:
    """Refuses a base that trains none of ``weights``.

    Raises:
        OptimizerError: if that is so.
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(weight) in trained for weight in weights):
        raise OptimizerError(
            "the base optimizer trains none of the weights that would be held or bounded",
            "Make it from this model's parameters, after any copy or move: SGD(model.parameters(), ...)",
        )


def check_norms(norms: Mapping[str, Tensor]) -> None:
    """Refuses norms that cannot be held: zero, infinite or not a number.

    Args:
        norms: Per weight, by name: a scalar, or one per filter.

    Raises:
        RolesError: naming the weight, and the filter.
    """
    for name, norm in norms.items():
        for index, value in enumerate(norm.flatten().tolist()):
            if not 0 < value < math.inf:
                part = f"filter {index} of the scale-invariant weight" if norm.dim() else "the scale-invariant weight"
                raise RolesError(
                    f"{part} {name} has norm {value:g}, which cannot be held",
                    "Initialise it with finite values that are not all zero",
                )


def check_same_limits(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Refuses a saved state whose norms belong to other weights, or to another granularity.

    Raises:
        WeightsError: naming the weights.
    """
    way_out = "Load it with the model, fc_norm, weight_norm and granularity it was saved with"
    if different := sorted(mine.keys() ^ theirs.keys()):
        raise WeightsError(
            f"the state holds other weights than this optimizer: they differ in {', '.join(different)}", way_out
        )
    for name, limit in mine.items():
        if limit.shape != theirs[name].shape:
            raise WeightsError(
                f"the state holds {name} by {theirs[name].numel()} norm(s), this optimizer by {limit.numel()}", way_out
            )


def parameters_named(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The model's parameters of these names.

    Raises:
        RolesError: for a name that is none of the model's.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if unknown := [name for name in names if name not in parameters]:
        raise RolesError(
            f"the roles name {unknown[0]!r}, which is no parameter of the model",
            "Measure them on this model: find_roles(model, example_input)",
        )
    return {name: parameters[name] for name in names}
