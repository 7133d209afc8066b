"""Roles that the user gives by name pattern, in place of those that were measured."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal, get_args

from torch import nn

from fixnorm_core.errors import RolesError

__all__ = ["RoleName", "overridden"]

RoleName = Literal["scale_invariant", "head", "free"]

_log = logging.getLogger(__name__)


def overridden(
    measured: Mapping[str, RoleName],
    overrides: Mapping[str, RoleName],
    *,
    model: nn.Module,
    shares: Mapping[str, float],
) -> dict[str, RoleName]:
    """The roles after all overrides, each pattern in its turn, by parameter name.

    A weight that was measured not to be scale-invariant may be held all the same (its function then changes with its
    norm); that is logged as a warning. Only weights of two or more dimensions are held or bounded, so that
    ``"classifier.*"`` leaves a bias as it is. A tied weight is matched by any of its names.

    Args:
        measured: Role per parameter; tied parameters under their first name.
        overrides: Role per ``fnmatch`` pattern, case-sensitive.
        model: Whose parameters these are.
        shares: The measured radial share of parameters that have one.

    Raises:
        RolesError: for a pattern that matches no parameter (the nearest names are given), for a role that does not
            exist, for a frozen weight that is to be held or bounded, and where no weight is left to be.
    """
    parameters = dict(model.named_parameters())
    first_names = {id(parameter): name for name, parameter in parameters.items()}
    aliases = {name: first_names[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    roles = dict(measured)
    for pattern, role in overrides.items():
        if role not in get_args(RoleName):
            raise RolesError(
                f"the override {pattern!r} gives the role {role!r}, which does not exist",
                f"Give one of {', '.join(get_args(RoleName))}",
            )
        matched = sorted({first for name, first in aliases.items() if fnmatchcase(name, pattern)})
        if not matched:
            raise RolesError(
                f"the override {pattern!r} matches no parameter of the model",
                f"Near names: {', '.join(_near(pattern, list(aliases)))}",
            )
        for name in _allowed(matched, parameters, role=role, pattern=pattern):
            if role == "scale_invariant" and measured[name] != role:
                share = f"{shares[name]:.0e}" if name in shares else "none"
                _log.warning("%s is held by override, but is not scale-invariant (radial share %s)", name, share)
            roles[name] = role
    return roles


def _near(pattern: str, names: list[str]) -> list[str]:
    return difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]


def _allowed(matched: list[str], parameters: Mapping[str, nn.Parameter], *, role: RoleName, pattern: str) -> list[str]:
    if role == "free":
        return matched
    weights = [name for name in matched if parameters[name].dim() >= 2]
    if not weights:
        raise RolesError(
            f"the override {pattern!r} gives the role {role}, but matches no weight of two or more dimensions: it "
            f"matches {', '.join(matched)}",
            "Write a pattern that matches a layer's weight; biases and gains stay free",
        )
    if frozen := [name for name in weights if not parameters[name].requires_grad]:
        raise RolesError(
            f"the override {pattern!r} gives {frozen[0]} the role {role}, but it is frozen: its norm stays as it is",
            "Write a pattern that leaves it out, or unfreeze it",
        )
    return weights
