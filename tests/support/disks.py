"""A disk of a few MiB, to be filled: a file system in memory, where this machine allows one to be mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A file system of its own.

    Attributes:
        path: Where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Takes all that is free but ``leave`` bytes, rounded down to whole pages."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while file.write(b"\0" * 4096):
                    pass
            except OSError:
                pass
            file.truncate(max(0, self._ballast.stat().st_size - leave))

    def free(self) -> None:
        """Makes room again."""
        self._ballast.unlink()


@contextmanager
def mounted(path: Path, *, size: int) -> Iterator[SmallDisk]:
    """A disk of ``size`` bytes at ``path``; the test is skipped where none can be mounted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a full disk needs the program 'mount', which is not on this machine")
    if done.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount one of its own: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
