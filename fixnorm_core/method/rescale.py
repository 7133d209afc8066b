"""Giving scale-invariant weights new norms without changing the network's function.

In training mode nothing else is needed (up to the eps of the normalizations). In evaluation mode a BatchNorm divides by
*recorded* statistics, so with a trained network these must move along with the weights in front of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fixnorm_core.errors import RolesError
from fixnorm_core.method.probe import logits_of, probe_copy, probe_inputs, seeded

__all__ = ["rescale_weights"]

_UNCHANGED = 1e-5  # a factor this near to one is rounding: the weights have their norms already
_TOLERANCE = 1e-6  # of the logits' spread, in float64


@torch.no_grad()
def rescale_weights(
    model: nn.Module, *, factors: Mapping[str, Tensor], example_input: Tensor | None, seed: int = 0
) -> None:
    """Multiplies scale-invariant weights in place and keeps the function in training and in evaluation mode.

    How each channel in front of a BatchNorm follows the weights is measured: the inputs of every BatchNorm of a float64
    copy are compared before and after, on the same random inputs in training mode. A channel that became ``k·z + s``
    gets the running mean ``k·m + s`` and the running variance ``k²·(v + eps) − eps``, so that evaluation is the same
    function, eps included. Whether it is, is then checked. (A variance far below eps can come out slightly negative;
    variance plus eps is always positive.)

    Args:
        model: Changed in place; its mode, and all random states, stay as they were.
        factors: What to multiply each weight by, by parameter name; positive, scalars or of shape (filters, 1, ...).
        example_input: Inputs as in training, shape (N, ...); needed only where recorded statistics must move.
        seed: Of the random inputs.

    Raises:
        RolesError: if recorded statistics must move and there is no ``example_input``, or if they cannot be corrected;
            the model is then unchanged.
    """
    recorded = _recorded(model)
    if not recorded or all(bool(((factor - 1).abs() < _UNCHANGED).all()) for factor in factors.values()):
        _multiply(model, factors)
        return
    if example_input is None:
        raise RolesError(
            f"the running statistics of {next(iter(recorded))} are not fresh, and rescaling the weights would break "
            "evaluation mode",
            "Give example_input, one batch of training images, so that the statistics can be rescaled with the "
            'weights, or keep the norms with weight_norm="init"',
        )
    rescaled = copy.deepcopy(model).double()
    _multiply(rescaled, factors)
    with seeded(model, seed) as generator:
        inputs = probe_inputs(example_input, generator=generator, like=next(model.parameters()))
        before = _channel_statistics(probe_copy(model), inputs, names=recorded)
        after = _channel_statistics(probe_copy(rescaled), inputs, names=recorded)
        for name in recorded:
            _move_statistics(rescaled.get_submodule(name), before=before.get(name), after=after.get(name))
        _check_same_function(copy.deepcopy(model).double().eval(), rescaled.eval(), inputs)
    _multiply(model, factors)
    for name, norm in recorded.items():
        corrected = rescaled.get_submodule(name)
        norm.get_buffer("running_mean").copy_(corrected.get_buffer("running_mean"))
        norm.get_buffer("running_var").copy_(corrected.get_buffer("running_var"))


def _recorded(model: nn.Module) -> dict[str, _BatchNorm]:
    """Every BatchNorm, by name, if any of them has seen data."""
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    }
    fresh = all(
        not norm.get_buffer("running_mean").any() and bool((norm.get_buffer("running_var") == 1).all())
        for norm in norms.values()
    )
    return {} if fresh else norms


def _multiply(model: nn.Module, factors: Mapping[str, Tensor]) -> None:
    for name, factor in factors.items():
        weight = model.get_parameter(name)
        weight.mul_(factor.to(weight))


def _channel_statistics(
    probe: nn.Module, inputs: Tensor, *, names: Mapping[str, nn.Module]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance per channel of the input of each named BatchNorm, for one batch in training mode."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> None:
        def record(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            channels_last = arguments[0].movedim(1, -1).flatten(end_dim=-2)
            variance, mean = torch.var_mean(channels_last, dim=0, correction=0)
            seen[name] = (mean, variance)

        probe.get_submodule(name).register_forward_pre_hook(record)

    for name in names:
        watch(name)
    logits_of(probe, inputs)
    return seen


def _move_statistics(
    norm: nn.Module, *, before: tuple[Tensor, Tensor] | None, after: tuple[Tensor, Tensor] | None
) -> None:
    if before is None or after is None:  # not part of the forward pass
        return
    (old_mean, old_variance), (new_mean, new_variance) = before, after
    alive = old_variance > 1e-20 * (1 + old_mean.square())
    factor = (new_variance / old_variance).sqrt()
    # A channel that is constant on these inputs shows no factor; its neighbours mostly come from the same weight.
    factor = torch.where(alive, factor, factor[alive].median() if alive.any() else torch.ones_like(factor))
    shift = torch.where(alive, new_mean - factor * old_mean, 0.0)
    eps = getattr(norm, "eps", 0.0)
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    mean.copy_(factor * mean + shift)
    variance.copy_(factor.square() * (variance + eps) - eps)


def _check_same_function(model: nn.Module, rescaled: nn.Module, inputs: Tensor) -> None:
    pairs = zip(logits_of(model, inputs).values(), logits_of(rescaled, inputs).values(), strict=True)
    error = max(float((expected - got).abs().max() / expected.std().clamp_min(1e-30)) for expected, got in pairs)
    if not error < _TOLERANCE:
        raise RolesError(
            f"rescaling the weights changes the trained model's evaluation by {error:.1e} of its logits' spread, which "
            "no change of the running statistics could undo",
            'Keep the norms as they are with weight_norm="init"',
        )
