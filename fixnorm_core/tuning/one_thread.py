"""Keeps NumPy's and SciPy's linear algebra in the calling thread while something is proposed.

The matrices here have at most some hundred rows, and there are hundreds of them. Threads that share one out spend their
time waiting for each other, the more of them and the busier the machine, the longer; and sums in another order round
differently, so that a proposal would depend on how many cores a machine has.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """While this is entered each matrix is one thread's; afterwards all is as it was.

    The limit is the whole process's, so one thread is in here at a time: of two, the first to leave would lift it for
    both, and the last would put back what it had found, which is the limit.
    """
    with _ALONE, _libraries().limit(limits=1, user_api="blas"):
        yield


_ALONE = threading.RLock()


@cache
def _libraries() -> ThreadpoolController:
    """The libraries of linear algebra, looked for once, after NumPy and SciPy have loaded theirs."""
    import scipy.linalg  # noqa: F401

    return ThreadpoolController().select(user_api="blas")
