"""The step: any torch optimizer, then every scale-invariant weight back to its norm and the head under its bound.

This project's reconstruction of the idea of FixNorm (arXiv 2103.15345). Notation: ``W`` a scale-invariant weight and
``R`` its fixed norm, ``V`` a weight of the head and ``ρ`` (``fc_norm``) the bound on its norm in multiples of ``‖V₀‖``,
its norm at initialisation; norms are Frobenius. After the base optimizer's step ::

    W ← W · R / ‖W‖          V ← V · min(1, ρ‖V₀‖ / ‖V‖)

The optimizer's own state (momentum) is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fixnorm_core.errors import FixNormError, RolesError, WeightsError
from fixnorm_core.method.rescale import rescale_weights
from fixnorm_core.method.roles import Roles, find_roles

__all__ = ["FixNorm", "OptimizerError"]

_STATE = "fixnorm"


class OptimizerError(FixNormError):
    """A base optimizer or a setting that :class:`FixNorm` cannot work with."""

    code: ClassVar[str] = "invalid_optimizer"


class FixNorm(Optimizer):
    """Wraps a torch optimizer so that its steps keep the norms that the method fixes.

    It is a ``torch.optim.Optimizer`` that shares ``param_groups`` and ``state`` with its base, so learning-rate
    schedulers, ``GradScaler``, closures and hooks work on it as on any other. One step adds a norm and a
    multiplication per held weight, multi-tensor, without waiting for the device. Make it when the model is on its
    device and before ``torch.compile`` or ``DistributedDataParallel`` wraps it.

    Rescaling the weights to ``weight_norm`` happens once, here; evaluation mode keeps its function too
    (:func:`fixnorm_core.method.rescale.rescale_weights`). Parameters added later by ``add_param_group`` are free.

    Args:
        optimizer: The base; its weight decay must be zero.
        model: The model it trains.
        example_input: One batch of training images, shape (N, channels, height, width), to measure roles with.
        roles: Roles measured before or made by hand; then ``example_input`` is needed for trained models alone.
        fc_norm: ``ρ``, above zero; None leaves the head free. A head that starts at zero takes as ``‖V₀‖`` the
            expected norm of torch's default initialisation, ``sqrt(outputs / 3)``.
        weight_norm: ``R``, above zero, for every scale-invariant weight; ``"init"`` holds each at the norm it has
            now; None holds none. With both None this is the base optimizer, bit for bit.

    Attributes:
        base: The wrapped optimizer.
        roles: Who is held, bounded and free.

    Raises:
        OptimizerError: for a base with weight decay or without any of the model's held weights, for a setting out of
            range, and if neither ``example_input`` nor ``roles`` is given.
        RolesError: from :func:`find_roles`; for a scale-invariant weight whose norm is zero or not finite; for roles
            that name a parameter the model does not have.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        *,
        example_input: Tensor | None = None,
        roles: Roles | None = None,
        fc_norm: float | None = None,
        weight_norm: float | Literal["init"] | None = 1.0,
    ) -> None:
        _check_settings(optimizer, fc_norm=fc_norm, weight_norm=weight_norm)
        if roles is None:
            if example_input is None:
                raise OptimizerError(
                    "neither example_input nor roles is given, so the weights' roles cannot be known",
                    "Give example_input, one batch of training images",
                )
            roles = find_roles(model, example_input)
        self.base = optimizer
        self.roles = roles
        invariant = _parameters(model, roles.scale_invariant)
        head = _parameters(model, roles.head)
        _check_ownership(optimizer, [*invariant.values(), *head.values()])
        super().__init__([{"params": list(model.parameters())}], optimizer.defaults)
        self._share_with_base()
        norms = _checked_norms(invariant) if weight_norm is not None else {}
        if isinstance(weight_norm, (int, float)):
            factors = {name: weight_norm / norm for name, norm in norms.items()}
            rescale_weights(model, factors=factors, example_input=example_input)
            norms = {name: torch.full_like(norm, weight_norm) for name, norm in norms.items()}
        bounds = {name: fc_norm * _initial_norm(head[name]) for name in head} if fc_norm is not None else {}
        self._head = tuple(head.values())
        self._held = _by_device_and_dtype(invariant, limits=norms)
        self._bounded = _by_device_and_dtype(head, limits=bounds)
        self._project()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """The base optimizer's step, then the projection.

        Args:
            closure: Passed on to the base.

        Returns:
            What the base returns: the closure's loss, or None.
        """
        loss = self.base.step() if closure is None else self.base.step(closure)
        self._project()
        return loss

    def head_norm(self) -> Tensor:
        """Frobenius norm of the head's weights together, a scalar on their device."""
        if not self._head:
            return torch.zeros(())
        norm: Tensor = torch.linalg.vector_norm(torch.stack([_norm(weight) for weight in self._head]))
        return norm

    @property
    def head_bound(self) -> float | None:
        """What :meth:`head_norm` cannot exceed; None when the head is free."""
        if not self._bounded:
            return None
        return math.sqrt(sum(float(group.limits.square().sum()) for group in self._bounded))

    def state_dict(self) -> dict[str, Any]:
        """The base's state and, under ``"fixnorm"``, the norms that are held and the bounds, by parameter name."""
        own = {"norms": _by_name(self._held), "bounds": _by_name(self._bounded)}
        return {**self.base.state_dict(), _STATE: own}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave; norms and bounds are then those of the saved run.

        Raises:
            WeightsError: if the state is not FixNorm's, or holds other weights than this one; nothing is then changed.
        """
        own = state_dict.get(_STATE)
        if own is None:
            raise WeightsError(
                "the state has no entry 'fixnorm', so a plain optimizer saved it",
                "Load it into the base: FixNorm(...).base.load_state_dict(state)",
            )
        _check_same_weights(_by_name(self._held), own["norms"])
        _check_same_weights(_by_name(self._bounded), own["bounds"])
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != _STATE})
        self._share_with_base()
        for groups, limits in ((self._held, own["norms"]), (self._bounded, own["bounds"])):
            for group in groups:
                group.limits.copy_(torch.stack([limits[name] for name in group.names]))

    def _share_with_base(self) -> None:
        """One list of groups and one state for both; hooks on either's state_dict run when the base's is called."""
        self.param_groups = self.base.param_groups
        self.state = self.base.state
        for hooks in ("state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"):
            setattr(self, f"_optimizer_{hooks}_hooks", getattr(self.base, f"_optimizer_{hooks}_hooks"))

    @torch.no_grad()
    def _project(self) -> None:
        for group in self._held:
            group.scale(group.limits / group.norms())
        for group in self._bounded:
            group.scale((group.limits / group.norms()).clamp(max=1.0))


@dataclass(frozen=True, slots=True)
class _Group:
    """Weights of one device and dtype, with a norm for each in at least fp32: shape (weights,)."""

    names: tuple[str, ...]
    weights: tuple[Tensor, ...]
    limits: Tensor

    def norms(self) -> Tensor:
        return torch.stack(torch._foreach_norm(self.weights, 2, dtype=self.limits.dtype))

    def scale(self, factors: Tensor) -> None:
        torch._foreach_mul_(self.weights, factors.unbind())


def _by_device_and_dtype(weights: Mapping[str, Tensor], *, limits: Mapping[str, Tensor]) -> tuple[_Group, ...]:
    names: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name in limits:
        names.setdefault((weights[name].device, weights[name].dtype), []).append(name)
    return tuple(
        _Group(tuple(group), tuple(weights[name] for name in group), torch.stack([limits[name] for name in group]))
        for group in names.values()
    )


def _by_name(groups: tuple[_Group, ...]) -> dict[str, Tensor]:
    return {name: limit.clone() for group in groups for name, limit in zip(group.names, group.limits, strict=True)}


def _norm(weight: Tensor) -> Tensor:
    detached = weight.detach()
    norm: Tensor = torch.linalg.vector_norm(detached, dtype=torch.promote_types(detached.dtype, torch.float32))
    return norm


def _initial_norm(weight: Tensor) -> Tensor:
    norm = _norm(weight)
    # torch draws Linear and Conv weights from U(−1/√fan_in, 1/√fan_in), whose variance is 1/(3·fan_in).
    return torch.where(norm > 0, norm, math.sqrt(weight.shape[0] / 3))


def _checked_norms(invariant: Mapping[str, Tensor]) -> dict[str, Tensor]:
    norms = {name: _norm(weight) for name, weight in invariant.items()}
    for name, norm in norms.items():
        if not 0 < float(norm) < math.inf:
            raise RolesError(
                f"the scale-invariant weight {name} has norm {float(norm):g}, which cannot be held",
                "Initialise it with finite values that are not all zero",
            )
    return norms


def _parameters(model: nn.Module, names: tuple[str, ...]) -> dict[str, nn.Parameter]:
    parameters = dict(model.named_parameters())
    if unknown := [name for name in names if name not in parameters]:
        raise RolesError(
            f"the roles name {unknown[0]!r}, which is no parameter of the model",
            "Measure them on this model: find_roles(model, example_input)",
        )
    return {name: parameters[name] for name in names}


def _check_settings(
    optimizer: Optimizer, *, fc_norm: float | None, weight_norm: float | Literal["init"] | None
) -> None:
    for setting, value in (("fc_norm", fc_norm), ("weight_norm", weight_norm)):
        if value is not None and value != "init" and not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise OptimizerError(f"{setting} is {value!r}; it is a number above zero, or None", f"Give {setting}=1.0")
    for group in optimizer.param_groups:
        if group.get("weight_decay"):
            raise OptimizerError(
                f"the base optimizer has weight_decay {group['weight_decay']:g}; FixNorm replaces weight decay by "
                "fixed norms and trains with none",
                f"Make the base with weight_decay=0: {type(optimizer).__name__}(..., weight_decay=0)",
            )


def _check_ownership(optimizer: Optimizer, weights: Sequence[Tensor]) -> None:
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(weight) in trained for weight in weights):
        raise OptimizerError(
            "the base optimizer trains none of the weights that would be held or bounded",
            "Make it from this model's parameters, after any copy or move: SGD(model.parameters(), ...)",
        )


def _check_same_weights(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    if different := sorted(mine.keys() ^ theirs.keys()):
        raise WeightsError(
            f"the state holds other weights than this optimizer: they differ in {', '.join(different)}",
            "Load it with the model, fc_norm and weight_norm it was saved with",
        )
