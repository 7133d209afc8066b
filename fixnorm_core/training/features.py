"""What the head of a network is fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from fixnorm_core.method.roles import Roles

__all__ = ["linear_head", "watched_inputs"]


def linear_head(model: nn.Module, roles: Roles) -> nn.Linear | None:
    """The layer that turns features into logits, if the model has one head and that is linear."""
    if len(roles.head) != 1:
        return None
    layer = model.get_submodule(roles.head[0].rpartition(".")[0])
    return layer if isinstance(layer, nn.Linear) else None


@contextmanager
def watched_inputs(layer: nn.Linear, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Calls ``see`` with the features of every batch that goes through ``layer``, shape (n, features), in fp32."""

    def look(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        see(inputs[0].detach().float().flatten(0, -2))

    handle = layer.register_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()
