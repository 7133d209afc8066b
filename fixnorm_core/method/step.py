"""The step: any torch optimizer, then every scale-invariant weight back to its norm and the head under its bound.

This project's reconstruction of the idea of FixNorm (arXiv 2103.15345). Notation: ``W`` a scale-invariant weight and
``R`` its fixed norm, ``V`` a weight of the head and ``ρ`` (``fc_norm``) the bound on its norm in multiples of ``‖V₀‖``,
its norm at initialisation; norms are Frobenius. After the base optimizer's step ::

    W ← W · R / ‖W‖          V ← V · min(1, ρ‖V₀‖ / ‖V‖)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fixnorm_core.errors import WeightsError
from fixnorm_core.method import checks
from fixnorm_core.method.checks import OptimizerError
from fixnorm_core.method.probe import refuse_unmeasurable
from fixnorm_core.method.projection import by_device_and_dtype, filter_norms, limits_by_name, tensor_norm
from fixnorm_core.method.rescale import rescale_weights
from fixnorm_core.method.roles import Roles, find_roles

__all__ = ["FixNorm", "OptimizerError"]

_STATE = "fixnorm"
_COPIED = ("base", "roles", "_foreach", "_remove_radial", "_head", "_held", "_bounded")


class FixNorm(Optimizer):
    """Wraps a torch optimizer so that its steps keep the norms that the method fixes.

    It is a ``torch.optim.Optimizer`` that shares ``param_groups`` and ``state`` with its base, so learning-rate
    schedulers, ``GradScaler``, closures and hooks work on it as on any other. One step adds a norm and a multiplication
    per held weight, multi-tensor, without waiting for the device. Make it when the model is on its device and before
    ``torch.compile`` or ``DistributedDataParallel`` wraps it. ``torch.compile(optimizer.step)`` works too: the
    projection is one graph, and the whole step is two or three, since torch's own optimizers put a graph break into
    their steps. Weights that are sharded over processes (FSDP) are refused: their norms would take communication. Copy
    or pickle it together with its model, ``copy.deepcopy((model, optimizer))``, or the copy trains weights of its own;
    hooks are not copied.

    Rescaling the weights to ``weight_norm`` happens once, here; evaluation mode keeps its function too
    (:func:`fixnorm_core.method.rescale.rescale_weights`). Parameters added later by :meth:`add_param_group` are free.

    Args:
        optimizer: The base; its weight decay must be zero.
        model: The model it trains.
        example_input: One batch of training inputs, shape (N, ...), to measure roles with (:func:`find_roles`).
        roles: Roles measured before or made by hand; then ``example_input`` is needed for trained models alone.
        fc_norm: ``ρ``, above zero; None leaves the head free. A head that starts at zero takes as ``‖V₀‖`` the
            expected norm of torch's default initialisation, ``sqrt(outputs / 3)``.
        weight_norm: ``R``, above zero, for every scale-invariant weight; ``"init"`` holds each at the norm it has
            now; None holds none. With both None this is the base optimizer, bit for bit. The smaller
            ``R²`` is against the number of filters, the more a BatchNorm's eps does: measured, at ``R = 1`` an eps of
            1e-5 changes the effective gradient by less than 1 % up to 512 filters, and with ``R`` above
            ``sqrt(filters) / 5`` by less than 0.1 % (``benchmarks/weight_norm_eps.md``).
        granularity: ``"tensor"`` holds the norm of each weight as a whole. ``"filter"`` holds every filter (slice along
            dimension 0) at ``R / sqrt(filters)``, so that the whole has norm ``R`` too, or with ``"init"`` at its own;
            behind a BatchNorm this keeps the function, behind a normalization over several channels it is a
            constraint of its own and the first rescaling changes the function.
        momentum_radial: ``"keep"`` leaves momentum buffers alone. ``"remove"`` takes the part along the weight out of
            the held weights' buffers (``momentum_buffer``, ``exp_avg``) after every step.
        foreach: Multi-tensor projection; False takes one weight after the other, with the same result.

    Attributes:
        base: The wrapped optimizer.
        roles: Who is held, bounded and free.

    Raises:
        OptimizerError: for a base with weight decay or without any of the model's held weights, for a setting out of
            range, and if neither ``example_input`` nor ``roles`` is given.
        RolesError: from :func:`find_roles`; for a scale-invariant weight or filter whose norm is zero or not finite;
            for roles that name a parameter the model does not have.
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
        granularity: Literal["tensor", "filter"] = "tensor",
        momentum_radial: Literal["keep", "remove"] = "keep",
        foreach: bool = True,
    ) -> None:
        checks.check_settings(
            fc_norm=fc_norm, weight_norm=weight_norm, momentum_radial=momentum_radial, granularity=granularity
        )
        checks.check_no_decay(optimizer.param_groups, of="the base optimizer")
        if momentum_radial == "remove":
            checks.check_momentum(optimizer)
        refuse_unmeasurable(model)
        if roles is None:
            if example_input is None:
                raise OptimizerError(
                    "neither example_input nor roles is given, so the weights' roles cannot be known",
                    "Give example_input, one batch of training images",
                )
            roles = find_roles(model, example_input)
        invariant = checks.parameters_named(model, roles.scale_invariant)
        head = checks.parameters_named(model, roles.head)
        checks.check_ownership(optimizer, [*invariant.values(), *head.values()])
        norms: dict[str, Tensor] = {}
        if weight_norm is not None:
            measure = filter_norms if granularity == "filter" else tensor_norm
            norms = {name: measure(weight) for name, weight in invariant.items()}
            checks.check_norms(norms)
        if isinstance(weight_norm, (int, float)):
            wanted = {n: torch.full_like(norm, weight_norm / math.sqrt(norm.numel())) for n, norm in norms.items()}
            factors = {name: wanted[name] / norm for name, norm in norms.items()}
            rescale_weights(model, factors=factors, example_input=example_input)
            norms = wanted
        bounds = {name: fc_norm * _initial_norm(head[name]) for name in head} if fc_norm is not None else {}
        super().__init__([{"params": list(model.parameters())}], optimizer.defaults)
        self.base = optimizer
        self.roles = roles
        self._foreach, self._remove_radial = foreach, momentum_radial == "remove"
        self._head = tuple(head.values())
        self._held = by_device_and_dtype(invariant, limits=norms, at_most=False)
        self._bounded = by_device_and_dtype(head, limits=bounds, at_most=True)
        self._join_base()
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
        if self._remove_radial:
            for group in self._held:
                group.remove_radial(self.state, foreach=self._foreach)
        return loss

    def head_norm(self) -> Tensor:
        """Frobenius norm of the head's weights together, a scalar on their device."""
        if not self._head:
            return torch.zeros(())
        norm: Tensor = torch.linalg.vector_norm(torch.stack([tensor_norm(weight) for weight in self._head]))
        return norm

    @property
    def head_bound(self) -> float | None:
        """What :meth:`head_norm` cannot exceed; None when the head is free."""
        if not self._bounded:
            return None
        return math.sqrt(sum(float(limit) ** 2 for group in self._bounded for limit in group.limits))

    def state_dict(self) -> dict[str, Any]:
        """The base's state and, under ``"fixnorm"``, the norms that are held and the bounds, by parameter name."""
        own = {"norms": limits_by_name(self._held), "bounds": limits_by_name(self._bounded)}
        return {**self.base.state_dict(), _STATE: own}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave; norms and bounds are then those of the saved run.

        Raises:
            WeightsError: if the state is not FixNorm's, or holds other weights than this one, or holds them by filter
                and this one by tensor or the other way; nothing is then changed.
            OptimizerError: if the state's base has weight decay; nothing is then changed.
        """
        own = state_dict.get(_STATE)
        if own is None:
            raise WeightsError(
                "the state has no entry 'fixnorm', so a plain optimizer saved it",
                "Load it into the base: FixNorm(...).base.load_state_dict(state)",
            )
        checks.check_same_limits(limits_by_name(self._held), own["norms"])
        checks.check_same_limits(limits_by_name(self._bounded), own["bounds"])
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != _STATE})
        for groups, limits in ((self._held, own["norms"]), (self._bounded, own["bounds"])):
            for group in groups:
                for name, limit in zip(group.names, group.limits, strict=True):
                    limit.copy_(limits[name])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters that the base trains from now on; they are free, and do not decay whatever its default is.

        Raises:
            OptimizerError: for a group with weight decay.
        """
        checks.check_no_decay([param_group], of="the added group")
        super().add_param_group({**({"weight_decay": 0.0} if "weight_decay" in self.defaults else {}), **param_group})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in _COPIED}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._join_base()

    def _join_base(self) -> None:
        """Shares the base's groups and state with it, from now on and whenever the base loads others."""
        self._share_with_base()
        self.base.register_load_state_dict_pre_hook(_refuse_decay, prepend=True)
        self.base.register_load_state_dict_post_hook(lambda _base: self._share_with_base(), prepend=True)

    def _share_with_base(self) -> None:
        """One list of groups and one state for both; hooks on either's state_dict run when the base's is called."""
        self.param_groups = self.base.param_groups
        self.state = self.base.state
        for hooks in ("state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"):
            setattr(self, f"_optimizer_{hooks}_hooks", getattr(self.base, f"_optimizer_{hooks}_hooks"))

    def _project(self) -> None:
        for group in (*self._held, *self._bounded):
            group.project(foreach=self._foreach)


def _refuse_decay(_base: Optimizer, state: Mapping[str, Any]) -> None:
    checks.check_no_decay(state["param_groups"], of="the state to be loaded")


def _initial_norm(weight: Tensor) -> Tensor:
    norm = tensor_norm(weight)
    # torch draws Linear and Conv weights from U(−1/√fan_in, 1/√fan_in), whose variance is 1/(3·fan_in).
    return torch.where(norm > 0, norm, math.sqrt(weight.shape[0] / 3))
