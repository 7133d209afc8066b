"""What a server's threads count and time, and what its process takes.

Every server has a registry of its own; a restart begins at zero, as usual.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from worker.contracts import Resources

__all__ = ["Meters"]

_GAP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SUGGESTION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Meters:
    """Written by the dispatcher's and the courier's threads, read by any.

    Attributes:
        registry: Holds these and whatever else the server tells.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begins at zero.

        Args:
            clock: Seconds that only grow.
        """
        self.registry = CollectorRegistry()
        self._clock = clock
        self._ends: deque[float] = deque()
        self._attempts = Counter(
            "fixnorm_tune_attempts_ended",
            "Attempts that have ended here, by what they did (train, evaluate) and how they ended.",
            ["task", "outcome"],
            registry=self.registry,
        )
        self._held = Gauge(
            "fixnorm_tune_resources_held",
            "CPUs and GPUs that the attempts of this server hold now.",
            ["resource"],
            registry=self.registry,
        )
        self._gap = Histogram(
            "fixnorm_tune_dispatch_gap_seconds",
            "From the news that an attempt has ended to the start of the next one, where one was waiting.",
            buckets=_GAP_BUCKETS,
            registry=self.registry,
        )
        self._suggestion = Histogram(
            "fixnorm_tune_suggestion_seconds",
            "What a sampler and its storage take to suggest a point.",
            buckets=_SUGGESTION_BUCKETS,
            registry=self.registry,
        )
        self._webhooks = Counter(
            "fixnorm_tune_webhook_tries",
            "Tries to deliver a webhook, by how they ended: delivered, not_delivered (tried again later), given_up.",
            ["outcome"],
            registry=self.registry,
        )
        self._store = Gauge(
            "fixnorm_tune_store_up",
            "1 while the object store of checkpoints and weights answers this server, or there is none; else 0.",
            registry=self.registry,
        )
        self.store_answers(True)
        ProcessCollector(registry=self.registry)
        self.hold(Resources(0.0, 0.0))

    def ended(self, task: str, outcome: str) -> None:
        """An attempt has ended."""
        self._attempts.labels(task, outcome.lower()).inc()
        self._ends.append(self._clock())

    def started(self) -> None:
        """An attempt is starting."""
        if self._ends:
            self._gap.observe(self._clock() - self._ends.popleft())

    def nothing_waits(self) -> None:
        """What has ended so far has made room that nothing needs now: there is no gap to time."""
        self._ends.clear()

    def hold(self, resources: Resources) -> None:
        """What the running attempts hold from now on."""
        self._held.labels("cpu").set(resources.cpus)
        self._held.labels("gpu").set(resources.gpus)

    def store_answers(self, does: bool) -> None:
        """Whether the object store has answered when it was asked last."""
        self._store.set(float(does))

    def webhook_tried(self, outcome: str) -> None:
        """A webhook was tried."""
        self._webhooks.labels(outcome).inc()

    @contextmanager
    def suggesting(self) -> Iterator[None]:
        """Times a suggestion."""
        with self._suggestion.time():
            yield
