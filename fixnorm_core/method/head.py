"""Which weights produce the logits, and which gains are nearest to them, read off one forward pass's autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["gains_at_output", "weights_at_output"]

# How a signal enters that is looked up by integers, which have no gradient of their own
_LOOKUPS = ("EmbeddingBackward", "EmbeddingBagBackward", "IndexBackward", "IndexSelectBackward", "GatherBackward")


def weights_at_output(logits: Tensor, *, inputs: Tensor) -> list[Tensor]:
    """The weights of two or more dimensions that a signal from ``inputs`` meets last on its ways to ``logits``.

    Going back from the logits along the paths that lead to the inputs, every operation that takes such a weight ends
    its path, and the weight is one of the answer; everything else (biases, pooling, scaling, activations, gains) is
    passed. So the convolution in front of SqueezeNet's pooling is found, as is a linear layer whose logits are scaled
    afterwards, and both layers where two outputs are added. Names and module types play no part.

    Args:
        logits: Shape (N, classes), with its graph.
        inputs: Requiring a gradient; integers, which cannot, enter where they look a weight's rows up.

    Returns:
        Parameters, in no particular order; empty when the logits do not depend on the inputs.
    """
    return _met_last(logits, inputs=inputs, wanted=lambda leaf: leaf.dim() >= 2)


def gains_at_output(model: nn.Module, logits: Tensor, *, inputs: Tensor) -> list[str]:
    """The gains of the normalizations that a signal from ``inputs`` meets last on its ways to ``logits``.

    Where branches are added behind their normalizations (a residual and its shortcut), these are the gains of all of
    them; through a shortcut without one, the last gains in front of it.

    Args:
        model: With normalizations as modules of torch (``BatchNorm``, ``InstanceNorm``, ``GroupNorm``, ``LayerNorm``,
            ``RMSNorm``).
        logits: As for :func:`weights_at_output`.
        inputs: Likewise.

    Returns:
        Names of parameters, in the model's order; empty without a normalization that has gains.
    """
    kinds = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    modules = (module for module in model.modules() if isinstance(module, kinds))
    gains = {id(module.weight) for module in modules if module.weight is not None}
    found = {id(leaf) for leaf in _met_last(logits, inputs=inputs, wanted=lambda leaf: id(leaf) in gains)}
    return [name for name, parameter in model.named_parameters() if id(parameter) in found]


def _met_last(logits: Tensor, *, inputs: Tensor, wanted: Callable[[Tensor], bool]) -> list[Tensor]:
    """The leaves of a kind that are met last on the ways from ``inputs``: each way back ends where it meets some."""
    on_path = _depending_on(inputs, _nodes_below(logits))
    found: dict[int, Tensor] = {}
    seen: set[Node] = set()
    waiting = [node for node in [logits.grad_fn] if node is not None]
    while waiting:
        node = waiting.pop()
        if node not in on_path or node in seen:
            continue
        seen.add(node)
        children = _children(node)
        aside = _reachable(child for child in children if child not in on_path)
        leaves = (getattr(below, "variable", None) for below in aside)
        met = [leaf for leaf in leaves if isinstance(leaf, Tensor) and wanted(leaf)]
        found.update((id(leaf), leaf) for leaf in met)
        if not met:
            waiting.extend(children)
    return list(found.values())


def _nodes_below(logits: Tensor) -> list[Node]:
    return list(_reachable([logits.grad_fn] if logits.grad_fn is not None else []))


def _depending_on(inputs: Tensor, graph: Sequence[Node]) -> set[Node]:
    parents: dict[Node, list[Node]] = {}
    for node in graph:
        for child in _children(node):
            parents.setdefault(child, []).append(node)
    reached: set[Node] = set()
    if inputs.requires_grad:
        waiting = [node for node in graph if getattr(node, "variable", None) is inputs]
    else:
        waiting = [node for node in graph if node.name().startswith(_LOOKUPS)]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(parents.get(node, []))
    return reached


def _reachable(start: Iterable[Node]) -> dict[Node, None]:
    seen: dict[Node, None] = {}
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen[node] = None
            waiting.extend(_children(node))
    return seen


def _children(node: Node) -> list[Node]:
    return [child for child, _ in node.next_functions if child is not None]
