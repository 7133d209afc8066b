"""Prunes every hour, on the server that dispatches, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from service.database.troubles import DATABASE_ERRORS
from service.retention.prune import ForeignFolder, Pruner, PruningAlready

__all__ = ["Janitor"]

_FIRST_SECONDS = 60.0
_EVERY_SECONDS = 3600.0
_PATIENCE_SECONDS = 5.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Janitor:
    """Keeps to the policy.

    Attributes:
        pruner: What it has done.
        leads: Whether this server is the one that dispatches; one at a time is enough.
    """

    pruner: Pruner
    leads: Callable[[], bool]
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Begins a minute from now, when the jobs that were left have been taken up."""
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops after the job that is being pruned, and waits a little for that; a removal may be cut off anywhere."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE_SECONDS)

    def clean(self) -> None:
        """Prunes once, if this server is the one to do it."""
        if not self.leads():
            return
        for pruned in self.pruner.prune(is_over=self._stop.is_set):
            told = {"job": pruned.job, "what": pruned.what, "files": pruned.files, "bytes": pruned.bytes}
            if pruned.kept is None:
                log.info("retention.pruned", **told)
            else:
                log.warning("retention.kept", **told, reason=pruned.kept)

    def _run(self) -> None:
        pause = _FIRST_SECONDS
        while not self._stop.wait(pause):
            pause = _EVERY_SECONDS
            try:
                self.clean()
            except (
                *DATABASE_ERRORS,
                OSError,
                PruningAlready,
                ForeignFolder,
            ) as error:  # what is left is there at the next look
                log.warning("retention.held_up", reason=str(error))
