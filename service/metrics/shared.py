"""What is the same on every server of one database, looked up at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fixnorm_core.disk import free_bytes
from service.database.engine import Database
from service.jobs import repository
from service.queue.standing import count_waiting
from service.schemas import JobState
from service.webhooks import deliveries
from worker.contracts import Resources

__all__ = ["SharedState"]


class SharedState(Collector):
    """Jobs by state and waiting webhooks in one query each, and what this server is."""

    def __init__(
        self, database: Database, capacity: Callable[[], Resources], leads: Callable[[], bool], state_dir: Path
    ) -> None:
        """Looks nothing up yet."""
        self._database, self._capacity, self._leads, self._state_dir = database, capacity, leads, state_dir

    def describe(self) -> list[Metric]:
        """Nothing, so that registering this reads no database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        with self._database.read() as session:
            counts, waiting = repository.count_by_state(session), deliveries.count_waiting(session)
            queued = count_waiting(session)
        jobs = GaugeMetricFamily("fixnorm_tune_jobs", "Jobs by state, of all servers.", labels=["state"])
        for state in JobState:
            jobs.add_metric([state.lower()], counts.get(state, 0))
        yield jobs
        yield GaugeMetricFamily("fixnorm_tune_jobs_waiting", "Jobs that wait for room for a trial.", queued)
        yield GaugeMetricFamily("fixnorm_tune_webhooks_waiting", "Webhooks that are still to arrive.", waiting)
        total = self._capacity()
        resources = GaugeMetricFamily("fixnorm_tune_resources", "What trials can hold.", labels=["resource"])
        resources.add_metric(["cpu"], total.cpus)
        resources.add_metric(["gpu"], total.gpus)
        yield resources
        with suppress(OSError):
            free = free_bytes(self._state_dir)
            yield GaugeMetricFamily("fixnorm_tune_state_free_bytes", "What the state folder's disk still takes.", free)
        yield GaugeMetricFamily(
            "fixnorm_tune_dispatching",
            "1 on the server that runs jobs, else 0.",
            float(self._leads()),
        )
        yield InfoMetricFamily("fixnorm_tune_build", "The software that runs.", {"version": version("fixnorm-tune")})
