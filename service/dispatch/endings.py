"""Results of jobs that end, written beside the dispatcher's thread where an object store takes part in it.

A store may take seconds to answer, or to say nothing; meanwhile other jobs go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue

from service.schemas import BestView

__all__ = ["Endings"]

_PATIENCE_SECONDS = 5.0

_Work = tuple[Future[BestView], Callable[[], BestView]]


@dataclass(slots=True)
class Endings:
    """One result at a time. Used by the dispatcher's thread alone."""

    _waiting: SimpleQueue[_Work | None] = field(default_factory=SimpleQueue, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _closed: threading.Event = field(default_factory=threading.Event, init=False)
    _begun: dict[str, tuple[object, Future[BestView]]] = field(default_factory=dict, init=False)

    def take(self, job_id: str, what: object, write: Callable[[], BestView]) -> BestView | None:
        """The result once it is written, after which it is forgotten; None while it is being written.

        Args:
            job_id: Of the job that ends.
            what: What it ends with; a result that was begun with something else is written anew.
            write: Writes it, in another thread.

        Raises:
            Exception: Whatever ``write`` raised; the next call begins anew.
        """
        begun = self._begun.get(job_id)
        if begun is None or begun[0] != what:
            begun = self._begun[job_id] = (what, self._begin(write))
        if not begun[1].done():
            return None
        del self._begun[job_id]
        return begun[1].result()

    def forget(self, job_id: str) -> None:
        """Of a job that has ended, or is another server's: nothing that is written for it is used then."""
        self._begun.pop(job_id, None)

    def forget_all(self) -> None:
        """Likewise of all."""
        self._begun.clear()

    def close(self) -> None:
        """Begins nothing more, and waits a little for what is being written: it may be cut off anywhere."""
        self._closed.set()
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(_PATIENCE_SECONDS)

    def _begin(self, write: Callable[[], BestView]) -> Future[BestView]:
        result: Future[BestView] = Future()
        self._waiting.put((result, write))
        if self._thread is None:  # none of a pool, for which Python waits at its end, as long as a store says nothing
            self._thread = threading.Thread(target=self._work, name="endings", daemon=True)
            self._thread.start()
        return result

    def _work(self) -> None:
        while (begun := self._waiting.get()) is not None and not self._closed.is_set():
            result, write = begun
            try:
                result.set_result(write())
            except BaseException as error:  # whoever takes the result is told
                result.set_exception(error)
