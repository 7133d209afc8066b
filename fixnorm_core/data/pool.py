"""Processes that read batches of image files, and end with the process that asked for them.

They are torch's DataLoader workers, started by a fork server: a fork of the training process would copy its threads'
locks in whatever state they are (Ray's, CUDA's, the pin-memory thread's), and fresh interpreters would each import
torch anew (measured: benchmarks/streaming.md). The fork server imports once per training process and then forks workers
in milliseconds.

A worker holds no list of files and no state: whatever it needs to make a batch comes with the request, so that one pool
serves all splits, and what is read cannot depend on which worker reads it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fixnorm_core.errors import DataError

__all__ = ["PRELOADED", "ReaderLost", "Request", "WorkerPool"]

_LOST = (
    "a process that reads images exited unexpectedly: killed, out of memory, or out of shared memory (/dev/shm holds "
    "two batches for each of data.loader_workers)"
)
_PREFETCHED = 2
PRELOADED = ["fixnorm_core.data.streaming", "fixnorm_core.data.mixing", "fixnorm_core.vision"]
"""What the fork server imports, once, for all readers."""


@runtime_checkable
class Request(Protocol):
    """One batch to read; plain data that travels to another process."""

    def read(self) -> Tensor:
        """The images, uint8 (b, channels, side, side).

        Raises:
            DataError: If one cannot be read.
        """


class ReaderLost(RuntimeError):
    """A process that reads images has died: of a signal, or of the want of memory or of ``/dev/shm``."""


class WorkerPool:
    """Reads batches ahead of the training, in order.

    The processes start with the first request, stay between passes, and end when a pass is dropped before its end, when
    the pool is closed or forgotten, and when this process dies, by whatever signal. A pool may be used again after
    that. One pass at a time.
    """

    def __init__(self, workers: int, *, pin: bool = False) -> None:
        """Starts nothing yet.

        Args:
            workers: How many processes; 0 reads in this one.
            pin: Deliver batches in page-locked memory, from which a GPU can copy while it computes.
        """
        self._workers, self._pin = workers, pin
        self._requests = _Requests()
        self._loader: DataLoader[Any] | None = None
        self._reading = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def read(self, requests: Iterable[Request]) -> Generator[Tensor, None, None]:
        """Yields the answer to each request, in order.

        Raises:
            DataError: If an image cannot be read.
            ReaderLost: If a worker dies.
            RuntimeError: If another pass is under way.
        """
        if self._workers == 0:
            yield from (request.read() for request in requests)
            return
        if self._reading:
            raise RuntimeError("this pool is in the middle of a pass; end it first, or take another pool")
        self._reading = True
        try:
            yield from self._read(requests)
        except BaseException:  # the consumer's exception does not come here, but GeneratorExit does
            self.close()
            raise
        finally:
            self._reading = False

    def close(self) -> None:
        """Ends the processes."""
        self._loader = None  # torch ends its workers when nothing refers to them any more

    def _read(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        self._requests.pending = requests
        try:
            for answer in self._started():
                if isinstance(answer, _Unreadable):
                    raise DataError(answer.rule, answer.way_out)
                yield answer
        except (EOFError, ConnectionError, FileNotFoundError) as error:  # its end of a batch's shared memory is gone
            raise ReaderLost(_LOST) from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ReaderLost(_LOST) from error

    def _started(self) -> Iterator[Any]:
        if self._loader is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(PRELOADED)
            self._loader = DataLoader(
                _Answers(),
                batch_size=None,  # a request is a whole batch already
                sampler=self._requests,
                num_workers=self._workers,
                multiprocessing_context=context,
                persistent_workers=True,
                prefetch_factor=_PREFETCHED,
                pin_memory=self._pin,
                worker_init_fn=_end_with_parent,
                generator=torch.Generator(),  # else torch draws from the global one, which seeds the training
            )
        with _unnamed_main():
            return iter(self._loader)


_naming = threading.Lock()


class _Requests:
    """What torch takes for a sampler."""

    pending: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.pending)


class _Unreadable:
    """An error as plain data: torch would bury its words under a worker's traceback."""

    def __init__(self, error: DataError) -> None:
        self.rule, self.way_out = error.rule, error.way_out


class _Answers(Dataset[Any]):
    """What torch takes for a data set: it is indexed by requests."""

    def __getitem__(self, request: Request) -> Tensor | _Unreadable:
        try:
            return request.read()
        except DataError as error:
            return _Unreadable(error)


@contextmanager
def _unnamed_main() -> Iterator[None]:
    """Keeps new processes from importing the running script, of which they need nothing.

    In a Ray actor that script imports Ray, a second for every process; and a user's script that has no
    ``if __name__ == "__main__"`` would start to train again in each of them.
    """
    main = sys.modules["__main__"]
    with _naming:
        names = vars(main)
        kept: dict[str, Any] = {name: names.pop(name) for name in ("__file__", "__spec__") if name in names}
        main.__spec__ = None
        try:
            yield
        finally:
            names.update(kept)


def _end_with_parent(_worker: int) -> None:
    """Ends this worker when the training process is gone, even if it was killed.

    Torch watches the process that forked the worker. Here that is the fork server, which lives as long as its workers.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
