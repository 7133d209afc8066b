"""Several processes that train together, on a CPU with gloo."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.distributed import FileStore

from fixnorm_core.data.pool import PRELOADED
from fixnorm_core.spec import TrialSpec
from fixnorm_core.training.ranks import Ranks, joined
from fixnorm_core.training.trainer import Trainer

Work = Callable[..., Any]


def train(ranks: Ranks, trial: TrialSpec, folder: str, epochs: int | None = None) -> tuple[list[Any], Any]:
    """A run as one rank has it, or so many of its epochs: its reports, and its result if it has ended."""
    trainer = Trainer(trial, folder=Path(folder), ranks=ranks)
    reports = list(islice(trainer, epochs))
    return reports, trainer.result() if epochs is None else None


def several(ranks: Ranks, works: Sequence[tuple[Work, Sequence[Any]]]) -> list[Any]:
    """One work after another: starting processes takes longer than most of them do."""
    return [work(ranks, *args) for work, args in works]


def die_after(ranks: Ranks, trial: TrialSpec, folder: str, epochs: int) -> None:
    """Trains so many epochs, then rank 1 is killed in the middle of the next."""
    run = iter(Trainer(trial, folder=Path(folder), ranks=ranks))
    for _ in range(epochs):
        next(run)
    ranks.all(True)  # rank 0 has saved it
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    next(run)


def run_ranks(work: Work, *args: Any, folder: Path, count: int = 2) -> Sequence[Any]:
    """Runs ``work(ranks, *args)`` in so many processes; what each returned, in the order of the ranks.

    Raises:
        torch.multiprocessing.spawn.ProcessException: If one of them ends otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start(_work, work, args, str(folder), count, count=count)
    return [torch.load(folder / f"{rank}.result", weights_only=False) for rank in range(count)]


def start(work: Callable[..., None], *args: Any, count: int) -> None:
    """Runs ``work(rank, *args)`` in so many processes, and waits for them.

    torch and its compiler, which its optimizers import, would take four seconds of each process; forks have them.

    Raises:
        torch.multiprocessing.spawn.ProcessException: If one of them ends otherwise.
    """
    multiprocessing.set_forkserver_preload([*PRELOADED, "fixnorm_core.training.trainer", "torch._dynamo"])
    torch.multiprocessing.start_processes(work, args=args, nprocs=count, start_method="forkserver")


def _work(rank: int, work: Work, args: Sequence[Any], folder: str, count: int) -> None:
    torch.set_num_threads(1)
    store = FileStore(f"{folder}/rendezvous", count)
    with joined(store, rank=rank, count=count, device=torch.device("cpu")) as ranks:
        torch.save(work(ranks, *args), f"{folder}/{rank}.result")
