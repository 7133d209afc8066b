"""The log of an attempt whose folder no server sees: it is put in an object store while it grows, and after a crash."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fixnorm_core.artifacts import ArtifactStore
from fixnorm_core.data.store import Pace
from fixnorm_core.errors import FixNormError

__all__ = ["KeptLog", "put_what_is_left"]

log = logging.getLogger("fixnorm_core")

_PLACE = "log-is-kept.json"
"""Beside what an attempt works with: where its log is, and where it goes."""

_FIRST_SECONDS, _EVERY_SECONDS = 1.0, 10.0
_SHARE = 0.1
"""Of the time, at most, is spent with uploads of a log, which is put whole each time."""


@dataclass(slots=True)
class KeptLog:
    """Puts a log in a store whenever it has grown. One that cannot be put is no reason to fail.

    Attributes:
        url: The address of the store.
        name: The object's name there.
        path: The file.
        folder: What goes when the attempt has ended.
    """

    url: str
    name: str
    path: Path
    folder: Path
    _store: ArtifactStore = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _stored: int = field(default=-1, init=False)
    _is_refused: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._store = ArtifactStore(self.url, pace=Pace.TRANSFER, excused=True)

    def put(self) -> None:
        """Puts it as it is now, empty if there is nothing of it; safe from any thread."""
        with self._lock:
            try:
                content = self.path.read_bytes() if self.path.exists() else b""
                if len(content) <= self._stored:
                    return
                self._store.write(self.name, content)
                self._stored, self._is_refused = len(content), False
            except (FixNormError, OSError) as error:
                if not self._is_refused:  # told once, else the log would grow by that alone
                    log.warning("the log is not kept in the store: %s", error)
                self._is_refused = True

    @contextmanager
    def following(self) -> Iterator[None]:
        """Puts it again and again as long as the block runs.

        Whatever kills this process, the last seconds alone are lost, and not they if another attempt begins here.

        Raises:
            OSError: If the disk is full.
        """
        place = {"url": self.url, "name": self.name, "path": str(self.path)}
        (self.folder / _PLACE).write_text(json.dumps(place), encoding="utf-8")
        ended = threading.Event()

        def follow() -> None:
            pause = _FIRST_SECONDS
            while True:
                begun = time.monotonic()
                self.put()
                if ended.wait(max(pause, (time.monotonic() - begun) / _SHARE)):
                    return
                pause = min(2 * pause, _EVERY_SECONDS)

        thread = threading.Thread(target=follow, name="log", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def put_what_is_left(folder: Path) -> None:
    """Puts the log of an attempt that was killed, before its folder goes; not where none is: its job was removed."""
    try:
        place = json.loads((folder / _PLACE).read_text(encoding="utf-8"))
        content = Path(place["path"]).read_bytes()
        store = ArtifactStore(place["url"], pace=Pace.QUICK, excused=True)
        stored = store.size(place["name"])
        if stored is not None and stored < len(content):
            store.write(place["name"], content)
    except FileNotFoundError:  # it had not begun
        pass
    except (FixNormError, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the log of %s, which was killed, is lost: %s", folder.name, error)
