"""Where the ranks of a trial meet, and how each joins the others: in a file on one node, at an address across nodes.

On one node they talk on the loopback interface and nothing listens on the network. Across nodes rank 0 listens on a
port of its own for as long as the trial is trained, and all talk on the interface that their node is known to Ray by;
torch.distributed protects none of it, so that network must be trusted, as Ray's own must (SECURITY.md).
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray

from fixnorm_core.spec import TrialSpec
from worker.run_task import Join

if TYPE_CHECKING:
    from fixnorm_core.data.types import TrainingData
    from fixnorm_core.training.ranks import Ranks

__all__ = ["Meeting", "Seat", "convened", "interface_of", "join"]

log = logging.getLogger("fixnorm_core")  # which is the attempt's log

_WAIT = timedelta(minutes=5)
"""How long a rank waits for the place where they meet to answer."""
_LONGEST_PAUSE = timedelta(seconds=1)
"""Between two looks of one that waits for the others to read; its connection over the network is never silent."""
_TOLD_AFTER = timedelta(minutes=1)
"""For so long it waits before it says so."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the ranks of one trial meet.

    Attributes:
        path: The file, if all are on one node.
        address: Host and port, if they are on several.
        store: Rank 0's own at that address, which is not told to others.
    """

    path: str = ""
    address: tuple[str, int] | None = None
    store: Any = None

    @property
    def told(self) -> Meeting:
        """As the other ranks know it."""
        return replace(self, store=None)

    def open(self, *, count: int) -> Any:
        """The ``torch.distributed.Store`` of one rank."""
        from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]

        if self.store is not None:
            return self.store
        if self.address is None:
            return FileStore(self.path, count)
        host, port = self.address
        return TCPStore(host, port, count, is_master=False, timeout=_WAIT)


@dataclass(frozen=True, slots=True)
class Seat:
    """A rank among those of its node.

    Attributes:
        index: Its number among them, from 0.
        gpus: Those of all of them.
    """

    index: int = 0
    gpus: Sequence[str] = ()


@contextmanager
def convened(*, count: int, across_nodes: bool) -> Iterator[Meeting]:
    """Rank 0 has the others meet. What it leaves behind once the ranks have left: no file, and nothing that listens."""
    if across_nodes:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host = _own_address()
        # By itself the store would listen on every interface
        listening = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        port, fd = listening.getsockname()[1], listening.detach()
        store = TCPStore(host, port, count, is_master=True, timeout=_WAIT, wait_for_workers=False, master_listen_fd=fd)
        yield Meeting(address=(host, port), store=store)
        return
    folder = tempfile.mkdtemp(prefix="fixnorm-ranks-")
    try:
        yield Meeting(path=str(Path(folder) / "meeting"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def interface_of(address: str) -> str | None:
    """The name of this machine's network interface that has an address; None if none has."""
    families = (socket.AF_INET, socket.AF_INET6)
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.family in families and each.address.partition("%")[0] == address for each in addresses):
            return str(name)
    return None


def _own_address() -> str:
    """The one that Ray knows this node by."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def join(meeting: Meeting, seat: Seat, *, rank: int, count: int) -> Join:
    """How a rank joins the others for a trial: it reads its images and waits, however long, until all have theirs."""

    @contextmanager
    def joining(trial: TrialSpec, read: Callable[[], TrainingData]) -> Iterator[tuple[Ranks, TrainingData]]:
        interface = "lo" if meeting.address is None else interface_of(_own_address())
        if interface is not None:
            for library in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", interface)
        if seat.gpus:  # it sees those of its node's ranks, so that NCCL can copy from one to another
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seat.gpus)
        import torch

        from fixnorm_core.training.device import pick_device
        from fixnorm_core.training.ranks import joined

        device = pick_device(trial.training.device)
        if device.type == "cuda":
            device = torch.device("cuda", seat.index)
            torch.cuda.set_device(device)
        data = read()
        store = meeting.open(count=count)
        _wait_for_all(store, rank=rank, count=count)
        with joined(store, rank=rank, count=count, device=device) as ranks:
            yield ranks, data

    return joining


def _wait_for_all(store: Any, *, rank: int, count: int) -> None:
    """Returns once every rank has come so far.

    It never gives up by itself: a rank that has failed or is lost ends the attempt, by whoever started the ranks.
    """
    store.set(f"read/{rank}", "")
    began, told_after, pause = time.monotonic(), _TOLD_AFTER.total_seconds(), 0.01
    while missing := [other for other in range(count) if not store.check([f"read/{other}"])]:
        if (waited := time.monotonic() - began) >= told_after:
            log.info("waiting for rank %s to read its data, for %.0f s now", " and ".join(map(str, missing)), waited)
            told_after *= 2
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE.total_seconds())
