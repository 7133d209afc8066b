"""Results of jobs that end, written beside the dispatcher's thread where an object store takes part in it.

A store may take seconds to answer, or to say nothing; meanwhile other jobs go on.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from service.schemas import BestView

__all__ = ["Endings"]


@dataclass(slots=True)
class Endings:
    """One result at a time. Used by the dispatcher's thread alone."""

    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="endings"), init=False
    )
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
            begun = self._begun[job_id] = (what, self._pool.submit(write))
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
        """Begins nothing more; what is being written goes on for the seconds that it takes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
