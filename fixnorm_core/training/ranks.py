"""Several processes that train one run together, each on its part of every batch (data-parallel).

They talk through torch.distributed's default group. Whatever all of them must do alike (end an epoch, go on after it,
resume) is decided by a collective, so that none waits for one that has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fixnorm_core.data.shares import WHOLE, Share

__all__ = ["ALONE", "Ranks", "joined"]

_TIMEOUT = timedelta(minutes=30)
"""How long one waits for another, which may be writing a checkpoint; whoever runs them notices a lost one sooner."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train a run. The first one writes files and speaks for all.

    Every method but the properties is a collective: all ranks call it, in the same order.

    Attributes:
        rank: Its number, from 0.
        count: How many there are.
        device: Where collectives compute: the device of the training.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a constant

    @property
    def is_first(self) -> bool:
        """Whether it is rank 0."""
        return self.rank == 0

    def share(self, *, with_previous: bool = False) -> Share:
        """Its part of every batch."""
        return WHOLE if self.count == 1 else Share(self.rank, self.count, with_previous=with_previous)

    def add(self, *tensors: Tensor) -> None:
        """Replaces each tensor by its sum over all ranks."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def all(self, condition: bool) -> bool:
        """Whether it holds on every rank."""
        if self.count == 1:
            return condition
        failing = torch.tensor(float(not condition), device=self.device)
        dist.all_reduce(failing)
        return failing.item() == 0

    def of_first(self, content: bytes) -> bytes:
        """What rank 0 gives, for every rank; what the others give is ignored."""
        if self.count == 1:
            return content
        size = torch.tensor(len(content), device=self.device)
        dist.broadcast(size, src=0)
        if self.is_first:
            packed = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0)
            packed = packed.to(device=self.device, dtype=torch.uint8)
        else:
            packed = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        if len(packed):
            dist.broadcast(packed, src=0)
        return packed.cpu().numpy().tobytes()

    def average_statistics(self, model: nn.Module) -> None:
        """Gives every BatchNorm the mean of all ranks' running statistics, each of which saw its own images alone."""
        if self.count == 1:
            return
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        buffers = [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]
        if not buffers:
            return
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.all_reduce(flat)
        means = torch.split(flat / self.count, [buffer.numel() for buffer in buffers])
        for buffer, mean in zip(buffers, means, strict=True):
            buffer.copy_(mean.view_as(buffer))


ALONE = Ranks()
"""One process that trains by itself."""


@contextmanager
def joined(store: Any, *, rank: int, count: int, device: torch.device) -> Iterator[Ranks]:
    """Joins the others of a run, with NCCL on a GPU and gloo on a CPU, and leaves them at the end.

    A block that raises does not leave: the others then wait for whoever runs them to end them, and do not fail of a
    connection that is gone, which would hide why. Such a process can join no other group.

    One waits half an hour for another, here and in every exchange: read data that take longer (those of a bucket)
    before, and give them to the trainer.

    Args:
        store: A ``torch.distributed.Store`` where all of them meet, one for each run.
        rank: This one's number, from 0.
        count: How many there are.
        device: Where this one trains.
    """
    if count == 1:
        yield ALONE
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=store,
        rank=rank,
        world_size=count,
        timeout=_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    yield Ranks(rank, count, device)
    dist.destroy_process_group()
