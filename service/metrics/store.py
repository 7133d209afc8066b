"""Whether the object store that nodes keep files in answers: without it no trial can end."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import structlog

from fixnorm_core.artifacts import ArtifactStore
from fixnorm_core.errors import DataError
from service.metrics.meters import Meters

__all__ = ["StoreWatch"]

_EVERY_SECONDS = 30.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class StoreWatch:
    """Asks the store for the size of one object, now and then, in a thread of its own.

    Attributes:
        store: The store; None where there is none, and nothing to watch.
        meters: What is told.
    """

    store: ArtifactStore | None
    meters: Meters
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    def start(self) -> None:
        """Begins at once. A look that hangs holds up no server's end."""
        if self.store is not None:
            threading.Thread(target=self._run, args=(replace(self.store),), name="store", daemon=True).start()

    def close(self) -> None:
        """Looks no more."""
        self._stop.set()

    def _run(self, store: ArtifactStore) -> None:
        trouble = None
        while not self._stop.is_set():
            last, trouble = trouble, _trouble(store)
            self.meters.store_answers(trouble is None)
            if trouble is not None and last is None:
                log.warning("artifacts.store_down", reason=trouble)
            elif trouble is None and last is not None:
                log.info("artifacts.store_up")
            self._stop.wait(_EVERY_SECONDS)


def _trouble(store: ArtifactStore) -> str | None:
    try:
        store.size("a name that nothing has")
    except DataError as error:
        return error.rule
    except Exception as error:  # the boundary: whatever a store makes its client raise, the next look comes
        return type(error).__name__  # its words may repeat an endpoint
    return None
