"""Which parameter plays which role, measured rather than guessed from names.

Part of this project's reconstruction of the idea of FixNorm (arXiv 2103.15345). If scaling a weight ``W`` leaves the
loss unchanged, Euler's theorem for functions homogeneous of degree zero gives ``⟨W, ∂L/∂W⟩ = 0``. One backward pass
tells for every parameter from its *radial share* ``|⟨W, ∂L/∂W⟩| / (‖W‖ ‖∂L/∂W‖)``: rounding error for a
scale-invariant weight, far from zero for another. AdamP's cosine test (arXiv 2006.08217) is the nearest public
relative.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fixnorm_core.errors import RolesError
from fixnorm_core.method.head import gains_at_output, weights_at_output
from fixnorm_core.method.overrides import RoleName, overridden
from fixnorm_core.method.probe import logits_of, probe_copy, probe_inputs, refuse_unmeasurable, seeded

if TYPE_CHECKING:  # so that the optimizer alone needs torch and NumPy and nothing else
    from fixnorm_core.reports import RoleNames

__all__ = ["Roles", "find_roles"]

_log = logging.getLogger(__name__)

_INVARIANT_BELOW = (
    1e-8  # measured: rounding leaves at most 1e-15, any other weight of torchvision's models shows at least 1e-4
)
_SUSPICIOUS_BELOW = 1e-5
# Of the largest ‖W‖ ‖∂L/∂W‖ in the model. A gradient this small is rounding error of a zero, and the loss is the same
# whatever the weight's norm: so with depthwise convolutions on 1 x 1 features in front of a BatchNorm.
_ZERO_GRADIENT = 1e-12


@dataclass(frozen=True, slots=True)
class Roles:
    """The names of a model's parameters, by role. Made by :func:`find_roles`, or by hand.

    Attributes:
        scale_invariant: Weights of two or more dimensions whose norm does not change the loss.
        head: Weights that produce the logits and are not scale-invariant.
        free: All others: biases, gains, frozen parameters, squeeze-and-excitation, embeddings.
        shares: The largest radial share measured per parameter that has a gradient, in [0, 1]; empty if made by hand.
        last_gains: Of the free ones, the gains of the normalizations nearest to the logits
            (:func:`fixnorm_core.method.head.gains_at_output`); empty if made by hand.
    """

    scale_invariant: tuple[str, ...]
    head: tuple[str, ...]
    free: tuple[str, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)
    last_gains: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def from_names(cls, names: RoleNames) -> Self:
        """The roles that :meth:`names` gave.

        Not the ``shares`` measured for them, of which a table of these roles shows "-": names are what later steps
        need, and every result holds them.
        """
        return cls(scale_invariant=names.scale_invariant, head=names.head, free=names.free)

    def names(self) -> RoleNames:
        """The roles as plain data, for reports, without the ``shares``."""
        from fixnorm_core.reports import RoleNames

        return RoleNames(scale_invariant=self.scale_invariant, head=self.head, free=self.free)

    def __str__(self) -> str:
        rows = [
            (role, name, f"{self.shares[name]:.0e}" if name in self.shares else "-")
            for role, names in (("scale-invariant", self.scale_invariant), ("head", self.head), ("free", self.free))
            for name in names
        ]
        width = max((len(name) for _, name, _ in rows), default=9)
        lines = [f"{'role':15}  {'parameter':{width}}  radial share"]
        lines += [f"{role:15}  {name:{width}}  {share}" for role, name, share in rows]
        return "\n".join(lines)


def find_roles(
    model: nn.Module,
    example_input: Tensor,
    *,
    overrides: Mapping[str, RoleName] | None = None,
    batches: int = 3,
    seed: int = 0,
    must_hold: bool = True,
) -> Roles:
    """Measures the role of every parameter of a classifier.

    The measurement runs on a float64 copy (see :mod:`fixnorm_core.method.probe`) whose all-zero parameters and filters
    are set to small random values, so that no gradient is blocked and no bias hides what it will do once it has
    learned. It takes ``batches`` forward and backward passes; a parameter's radial share is its largest, so that a
    chance zero does not count. The head is found from the graph
    (:func:`fixnorm_core.method.head.weights_at_output`). Tied weights appear once, under their first name. The model,
    its buffers and mode, and all random states are left as they were.

    Args:
        model: Returns logits of shape (N, classes), or several of them, one for each head
            (:func:`fixnorm_core.method.probe.logits_of`); the loss is then the sum of their cross-entropies.
        example_input: One batch as in training, shape (N, ...). Of images and vectors only the shape, mean and spread
            are used; roles seldom depend on the image size, so small images will do. Of integers (token ids) the values
            are used, see :func:`fixnorm_core.method.probe.probe_inputs`.
        overrides: Roles by name pattern (``fnmatch``: ``{"classifier.*": "head"}``), which go before what is measured;
            of several patterns that match a parameter the last counts.
        batches: Random batches to measure on.
        seed: Of the random inputs, labels and perturbations.
        must_hold: Whether the method is to be used on the model, so that a role which nothing has is an error. False
            only looks.

    Raises:
        RolesError: if the model cannot be measured (lazy parameters among the reasons), if it must be held and has no
            scale-invariant weight or no head, or for an override that matches nothing, is no role, or holds or bounds
            a parameter that cannot be.
    """
    if batches < 1:
        raise RolesError(f"batches is {batches}; roles are measured on at least one batch", "Give batches=3")
    refuse_unmeasurable(model)
    probe = probe_copy(model)
    parameters = dict(probe.named_parameters())
    shares: dict[str, float] = {}
    head: set[int] = set()
    last_gains: dict[str, None] = {}
    with seeded(probe, seed) as generator, torch.enable_grad():
        _perturb_zeros(parameters.values(), generator=generator)
        for batch in range(batches):
            inputs = probe_inputs(example_input, generator=generator, like=next(iter(parameters.values())))
            outputs_by_name = logits_of(probe, inputs.requires_grad_(inputs.is_floating_point()))
            if batch == 0:
                _warn_of_several(outputs_by_name)
            logits = list(outputs_by_name.values())
            head |= {id(weight) for part in logits for weight in weights_at_output(part, inputs=inputs)}
            last_gains |= dict.fromkeys(name for part in logits for name in gains_at_output(probe, part, inputs=inputs))
            for name, share in _radial_shares(parameters, logits, generator=generator).items():
                shares[name] = max(share, shares.get(name, 0.0))
    outputs = [name for name, parameter in parameters.items() if id(parameter) in head]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    weights = [name for name in trained if name in shares and parameters[name].dim() >= 2]
    measured: dict[str, RoleName] = dict.fromkeys(parameters, "free")
    for name in weights:
        if shares[name] < _INVARIANT_BELOW:
            measured[name] = "scale_invariant"
        elif name in outputs:
            measured[name] = "head"
    decided = overridden(measured, overrides or {}, model=model, shares=shares)
    by_role: dict[RoleName, list[str]] = {"scale_invariant": [], "head": [], "free": []}
    for name, role in decided.items():
        by_role[role].append(name)
    roles = Roles(
        **{role: tuple(names) for role, names in by_role.items()}, shares=shares, last_gains=tuple(last_gains)
    )
    if must_hold:
        _refuse_the_impossible(roles, outputs=outputs)
    _warn_of_the_suspicious(roles, weights=weights)
    return roles


def _perturb_zeros(parameters: Iterable[nn.Parameter], *, generator: torch.Generator) -> None:
    """Also lets every parameter take part: a frozen head is still the head.

    A filter of zeros counts too: with eps next to zero its gradient would dwarf all others.
    """
    for parameter in parameters:
        parameter.requires_grad_(parameter.is_floating_point())
        filters = parameter.detach().flatten(1) if parameter.dim() >= 2 else parameter.detach().reshape(1, -1)
        zero = ~filters.any(dim=1)
        if zero.any():
            noise = torch.randn(filters.shape, generator=generator, dtype=torch.float64) * 0.1
            filters[zero] = noise.to(filters)[zero]


def _radial_shares(
    parameters: Mapping[str, nn.Parameter], logits: Sequence[Tensor], *, generator: torch.Generator
) -> dict[str, float]:
    """Radial share per parameter, of the cross-entropy with random labels; none where the gradient is exactly zero."""
    loss = torch.stack([_loss(part, generator=generator) for part in logits]).sum()
    real = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss, list(real.values()), allow_unused=True)
    found = {n: (p, g) for (n, p), g in zip(real.items(), gradients, strict=True) if g is not None}
    sizes = {name: float(p.detach().norm() * g.norm()) for name, (p, g) in found.items()}
    floor = _ZERO_GRADIENT * max(sizes.values(), default=0.0)
    if not all(size < float("inf") for size in sizes.values()):
        raise RolesError(
            "the model's gradients are not finite on random inputs like example_input",
            "Give an example_input with the mean and spread of the training inputs; check the model's initialisation",
        )
    radial = {name: float((p.detach() * g).sum().abs()) for name, (p, g) in found.items()}
    return {name: radial[name] / size if size > floor else 0.0 for name, size in sizes.items() if size > 0}


def _loss(logits: Tensor, *, generator: torch.Generator) -> Tensor:
    labels = torch.randint(logits.shape[1], (logits.shape[0],), generator=generator)
    return F.cross_entropy(logits, labels.to(logits.device))


def _refuse_the_impossible(roles: Roles, *, outputs: list[str]) -> None:
    by_hand = "or give FixNorm roles=Roles(scale_invariant=..., head=...) by hand"
    if not roles.scale_invariant:
        raise RolesError(
            "the model has no scale-invariant weight: no normalization follows any layer that is trained, so there is "
            "no norm to hold",
            "Take a model with normalization layers (for example resnet18, vgg11_bn or small_resnet), tune it with "
            f"method: weight_decay, {by_hand}",
        )
    if not roles.head:
        last = f"{', '.join(outputs)} produce(s) them but is scale-invariant or frozen" if outputs else "none was found"
        raise RolesError(
            f"the model has no head, a trained weight that produces the logits and is not scale-invariant: {last}",
            f"End the model with a linear layer without a normalization behind it, {by_hand}",
        )


def _warn_of_several(logits: Mapping[str, Tensor]) -> None:
    if len(logits) > 1 and not all("logits" in name for name in logits):
        _log.warning(
            "%d outputs count as logits: %s; if one is not, return the logits alone, or a mapping with "
            "logits in their names",
            len(logits),
            ", ".join(f"{name} of shape {tuple(part.shape)}" for name, part in logits.items()),
        )


def _warn_of_the_suspicious(roles: Roles, *, weights: Iterable[str]) -> None:
    for name in weights:
        if name not in roles.scale_invariant and roles.shares[name] < _SUSPICIOUS_BELOW:
            _log.warning(
                "%s is nearly scale-invariant (radial share %.0e) and is not held; an eps inside a function of the "
                "model may hide its invariance",
                name,
                roles.shares[name],
            )
