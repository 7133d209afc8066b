"""The copy of a model that measurements are made on, and the inputs it is shown.

Measurements run in float64, in training mode, without dropout and stochastic depth, with the eps of every
normalization next to zero: eps breaks scale invariance by about eps / variance, which is enough to hide it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parameter import is_lazy

from fixnorm_core.errors import RolesError

__all__ = ["logits_of", "probe_copy", "probe_inputs", "refuse_unmeasurable", "seeded"]

_EPS = 1e-30
_MIN_BATCH = 8  # fewer values per channel leave a BatchNorm on 1 x 1 features with nearly no gradient


def probe_copy(model: nn.Module) -> nn.Module:
    """A float64 copy of ``model`` in training mode, without dropout and stochastic depth, with eps next to zero.

    It lives on the model's device, or on the CPU where the device has no float64 (MPS).

    Raises:
        RolesError: if the model cannot be copied.
    """
    try:
        clone = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise RolesError(
            f"the model cannot be copied to be measured ({error})",
            "Give FixNorm the plain module, before torch.compile or DistributedDataParallel wraps it",
        ) from error
    if any(parameter.device.type == "mps" for parameter in clone.parameters()):
        clone = clone.cpu()
    clone = clone.double().train()
    for module in clone.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ in (
            "StochasticDepth",
            "DropPath",
        ):
            module.eval()
        if isinstance(getattr(module, "eps", None), float):
            vars(module)["eps"] = _EPS
    return clone


def refuse_unmeasurable(model: nn.Module) -> None:
    """Refuses parameters without values yet (lazy ones, those on the meta device), and those shared out over processes.

    Raises:
        RolesError: naming the first of them.
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter) or parameter.is_meta:
            raise RolesError(
                f"the parameter {name} has no values yet, so neither its role nor its norm is known",
                "Run one batch through a model with lazy modules first; load the weights of a model on the meta device",
            )
        if hasattr(parameter, "full_tensor"):  # a DTensor; importing its class takes longer than all of this
            raise RolesError(
                f"the parameter {name} is a {type(parameter).__name__}, of which this process has a part at most",
                "Train with DistributedDataParallel, which leaves every process the whole weight, in place of FSDP",
            )


def probe_inputs(example_input: Tensor, *, generator: torch.Generator, like: Tensor) -> Tensor:
    """Random inputs like ``example_input``: shape (N, ...) with N of at least 8, on the device of ``like``.

    Floating-point examples (images, vectors) are replaced by Gaussian noise of their mean and spread, in float64.
    Integer examples (token ids) keep their dtype; each entry is drawn from the same place in a random row of the
    example, so that every value is one the model knows there.

    Raises:
        RolesError: if the example is not a batch of numbers, or of integers in fewer than two rows.
    """
    if not isinstance(example_input, Tensor):
        raise RolesError(
            f"example_input is {type(example_input).__name__}; it is one tensor, a batch as the model takes it",
            "Give the images alone; wrap a model that takes more than one input in a module that takes one",
        )
    if example_input.is_complex() or example_input.dim() < 2 or example_input.numel() == 0:
        raise RolesError(
            f"example_input is {example_input.dtype} of shape {tuple(example_input.shape)}; it is one batch of images, "
            "vectors or token ids, (N, ...)",
            "Give one batch as the model receives it in training",
        )
    shape = (max(_MIN_BATCH, example_input.shape[0]), *example_input.shape[1:])
    if not example_input.is_floating_point():
        if example_input.shape[0] < 2:
            raise RolesError(
                f"example_input has one row of {example_input.dtype}; other rows are drawn from the example's own "
                "values, and from one row come only copies",
                "Give at least two examples, better eight",
            )
        rows = torch.randint(example_input.shape[0], shape, generator=generator)
        return example_input.detach().cpu().gather(0, rows).to(like.device)
    example = example_input.detach().double().cpu()
    spread = float(example.std(correction=0)) or 1.0
    noise = torch.randn(shape, generator=generator, dtype=torch.float64) * spread + example.mean()
    return noise.to(like.device)


def logits_of(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """The model's logits by name, each of shape (N, classes): one tensor, or one for every head.

    Of an output with several parts (tuple, list, mapping, named tuple or object) these are all its floating-point
    tensors of two dimensions; where parts are named and some have "logits" in their name, those alone, and otherwise,
    when a graph is recorded, none that another one is computed from, as logits are from features.

    Raises:
        RolesError: if the forward pass fails or gives no such tensor.
    """
    try:
        output = model(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise RolesError(
            f"the model fails on {inputs.dtype} input of shape {tuple(inputs.shape)}, like example_input ({error})",
            "Give an example_input that the model accepts, floating-point for images; a model that casts to a fixed "
            "dtype needs its Roles by hand",
        ) from error
    parts = _parts(output)
    logits = {
        name: part
        for name, part in parts.items()
        if isinstance(part, Tensor) and part.is_floating_point() and part.dim() == 2
    }
    if not logits:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise RolesError(
            f"the model's output is {shape}; a classifier's is one tensor of logits, (N, classes), or several of them",
            "Wrap the model in a module that returns its logits alone",
        )
    if all("logits" in name for name in logits):
        return logits
    nodes = {name: part.grad_fn for name, part in logits.items()}
    below: set[Node] = set()
    waiting = [child for node in set(nodes.values()) if node is not None for child, _ in node.next_functions]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in below:
            below.add(node)
            waiting.extend(child for child, _ in node.next_functions)
    return {name: part for name, part in logits.items() if nodes[name] not in below}


def _parts(output: Any) -> dict[str, Any]:
    if isinstance(output, Tensor):
        return {"output": output}
    named: Iterable[tuple[str, Any]]
    if isinstance(output, Mapping):
        named = output.items()
    elif hasattr(output, "_fields"):
        named = zip(output._fields, output, strict=True)
    elif isinstance(output, (tuple, list)):
        return {f"output[{place}]": part for place, part in enumerate(output)}
    else:
        named = vars(output).items() if hasattr(output, "__dict__") else ()
    parts = {str(name): part for name, part in named}
    return {name: part for name, part in parts.items() if "logits" in name} or parts


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[torch.Generator]:
    """Seeds every random state that the model's forward pass may draw from, and restores all of it afterwards.

    That is torch's on the CPU and on the model's GPUs, Python's and NumPy's.
    """
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield torch.Generator().manual_seed(seed)
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
