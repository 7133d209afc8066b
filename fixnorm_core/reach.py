"""What a job may reach of the machines that it runs on, which the operator of a server decides. No torch.

A server passes it to a worker beside the job, never in it. Whoever uses this package by themselves reaches what their
own account does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fixnorm_core.buckets import canonical_url, is_below_url, is_url
from fixnorm_core.errors import DataError

__all__ = ["ANYWHERE", "LOCAL", "OutsideRoots", "Reach", "Roots"]

_MOST_LINKS = 40
"""On the way to one file; as many as Linux follows."""


class OutsideRoots(DataError):
    """A path that is not, or does not stay, in the places that jobs may read data from."""

    code = "outside_data_roots"


class _Opened(Protocol):
    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Roots:
    """The folders and addresses that data may be read from, and all below them.

    A path is followed as the system would, one name and one link at a time, and only below the folders: outside them
    nothing is looked up, so that no refusal tells whether anything is there.

    Attributes:
        folders: Absolute, with no symbolic link on the way to them; None for anywhere.
        names: Other names of folders, as the operator gave them, each with the folder that it leads to.
        urls: Addresses in object stores, canonical; with folders None any may be read from.
    """

    folders: tuple[str, ...] | None = None
    names: tuple[tuple[str, str], ...] = ()
    urls: tuple[str, ...] = ()

    @classmethod
    def at(cls, places: Iterable[Path | str]) -> Roots:
        """Those addresses and folders, which need not be there yet; folders by these names and by their own.

        Raises:
            DataError: For an address that is none.
        """
        places = list(places)
        urls = tuple(canonical_url(place) for place in places if isinstance(place, str) and is_url(place))
        paths = [place for place in places if isinstance(place, Path) or not is_url(place)]
        given = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - resolve() would follow links too
        found = [(name, os.path.realpath(name)) for name in given]
        folders = tuple(dict.fromkeys(folder for _, folder in found))
        return cls(folders, tuple(pair for pair in found if pair[0] != pair[1]), urls)

    def confine(self, path: str | Path, *, written: str | None = None) -> str:
        """Where a path leads, with no symbolic link left on the way; as it is where data may be read from anywhere.

        What is returned is what to open: the path itself may lead elsewhere a moment later.

        Args:
            path: Absolute, or an address, which is returned as it is written canonically; need not exist.
            written: How a refusal calls it.

        Raises:
            OutsideRoots: If it is outside the folders and addresses, or a link leads out of them.
            DataError: For an address that is none.
            ValueError: If it holds a NUL.
        """
        if is_url(str(path)):
            url = canonical_url(str(path))
            if self.folders is not None and not any(is_below_url(url, root) for root in self.urls):
                raise self._refusal(url)
            return url
        if self.folders is None:
            return str(path)
        led = self._followed(str(path))
        if led is None:
            raise self._refusal(written or path)
        return led

    def check_open(self, file: _Opened, path: str | Path) -> None:
        """Makes sure of a file that was opened by that path: by then a link may have been put on the way.

        Raises:
            OutsideRoots: If it is outside the folders.
        """
        if self.folders is None:
            return
        try:
            opened = str(Path(f"/proc/self/fd/{file.fileno()}").readlink())
        except OSError:  # a system without /proc
            opened = os.path.realpath(path)
        if not self._hold(opened):
            raise self._refusal(path)

    def _followed(self, path: str) -> str | None:
        """Where the path leads; None if out of the folders.

        A ``..`` leaves the folder that was arrived at, never a link's name: of ``link/..`` that is another one.
        """
        if not path.startswith("/"):
            return None
        at, ahead, links = Path("/"), path.split("/")[::-1], 0
        while ahead:
            step = ahead.pop()
            if step == "..":
                at = at.parent
                continue
            if step in ("", "."):
                continue
            at = Path(dict(self.names).get(str(at / step), at / step))
            if not self._hold(str(at)):
                if not self._lie_below(str(at)):
                    return None
                continue
            try:
                target = None if str(at) in (self.folders or ()) else str(at.readlink())
            except OSError:  # no link, or nothing at all
                continue
            if target is not None:
                links += 1
                if links > _MOST_LINKS:
                    return None
                ahead += target.split("/")[::-1]
                at = Path("/") if target.startswith("/") else at.parent
        return str(at) if self._hold(str(at)) else None

    def _hold(self, path: str) -> bool:
        return any(_is_below(path, folder) for folder in self.folders or ())

    def _lie_below(self, path: str) -> bool:
        return any(_is_below(place, path) for place in (*(self.folders or ()), *dict(self.names)))

    def _refusal(self, path: str | Path) -> OutsideRoots:
        real_names = {folder: name for name, folder in self.names}
        told = ", ".join((*(real_names.get(folder, folder) for folder in self.folders or ()), *self.urls))
        return OutsideRoots(
            f"the path {str(path)[:200]!r} is, or leads, outside the folders that jobs may read data from: {told}",
            "Put the data, not a link to it, into one of them, or have the operator add its folder or address to "
            "FIXNORM_ALLOWED_DATA_ROOTS",
        )


ANYWHERE = Roots()


@dataclass(frozen=True, slots=True)
class Reach:
    """What a job may reach.

    Attributes:
        roots: Where its data may be.
        modules: Whose factories it may name, and those of modules in them.
        code: The folder of the Python files that came with jobs, by their SHA-256; None where none may come.
        cache: Where data sets from object stores are kept; None for the account's own cache.
        cache_days: Versions there that no process has used for so long are removed before more is fetched; None for
            none.
        cache_bytes: Others that no process uses likewise, until all that is there has no more bytes; None for however
            many.
    """

    roots: Roots = ANYWHERE
    modules: tuple[str, ...] = ()
    code: str | None = None
    cache: str | None = None
    cache_days: float | None = None
    cache_bytes: int | None = None


LOCAL = Reach()
"""What whoever uses this package without a server reaches: the files of their account; no modules by name."""


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
