"""Which object store a thread waits for, and how long: told to whoever watches it from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["StoreWait", "wait_of", "waiting_for"]

_begun: dict[int, tuple[str, float]] = {}
"""By the thread, which alone writes its own entry: the address that it asks, and when it began to."""


@dataclass(frozen=True, slots=True)
class StoreWait:
    """A wait for an object store that is not over.

    Attributes:
        url: The address that was asked.
        seconds: How long ago.
    """

    url: str
    seconds: float


@contextmanager
def waiting_for(url: str) -> Iterator[None]:
    """Around one thing that is asked of a store, tries again included; of nested ones the outer counts."""
    thread = threading.get_ident()
    if thread in _begun:
        yield
        return
    _begun[thread] = url, time.monotonic()
    try:
        yield
    finally:
        del _begun[thread]


def wait_of(thread: int | None) -> StoreWait | None:
    """What a thread waits for now; None if for no store."""
    begun = _begun.get(thread) if thread is not None else None
    return StoreWait(begun[0], time.monotonic() - begun[1]) if begun is not None else None
