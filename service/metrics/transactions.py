"""How long the database has been busy with each transaction: the wait for its lock, its statements and its commit."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, Histogram
from sqlalchemy import Engine, event

__all__ = ["TransactionTimes"]

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_BEGUN = "fixnorm_tune.begun"


class TransactionTimes:
    """Times every use of the connections that it watches, in any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Begins at zero."""
        self._seconds = Histogram(
            "fixnorm_tune_database_seconds",
            "A transaction, from taking its connection to giving it back: jobs (ours) or studies (Optuna's).",
            ["tables", "mode"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def watch(self, engine: Engine, *, tables: str, mode: str) -> None:
        """Times an engine's transactions from now on.

        Args:
            engine: Whose.
            tables: ``jobs`` or ``studies``.
            mode: ``read`` or ``write``.
        """
        observe = self._seconds.labels(tables, mode).observe

        @event.listens_for(engine, "checkout")
        def _begin(_connection: Any, record: Any, _proxy: Any) -> None:
            record.info[_BEGUN] = time.perf_counter()

        @event.listens_for(engine, "checkin")
        def _end(_connection: Any, record: Any) -> None:
            if (begun := record.info.pop(_BEGUN, None)) is not None:
                observe(time.perf_counter() - begun)
