"""What a process prints, in a file: Python's, C code's and its children's, and where a crash of C code happened."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["printed_to"]


@contextmanager
def printed_to(path: Path) -> Iterator[None]:
    """Appends to a file whatever this process prints meanwhile, in any thread. For a process that runs one task alone.

    Descriptors are turned, and not Python's streams alone: so a traceback that ``faulthandler`` writes while the
    process dies arrives too.

    Raises:
        OSError: If the file cannot be opened.
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    _flush()
    saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    try:
        for descriptor, _ in saved:
            os.dup2(file, descriptor)
        yield
    finally:
        _flush()
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(file)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError):  # what a full disk did not take is not worth the task
                stream.flush()
