"""What is the same on every server of one database, looked up at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fixnorm_core.disk import free_bytes
from service.jobs import repository
from service.nodes.schemas import NodeState
from service.nodes.views import node_views
from service.queue.standing import count_waiting
from service.runtime import Runtime
from service.schemas import JobState
from service.webhooks import deliveries

__all__ = ["SharedState"]


class SharedState(Collector):
    """Jobs by state and waiting webhooks in one query each, and what this server is."""

    def __init__(self, runtime: Runtime) -> None:
        """Looks nothing up yet."""
        self._runtime = runtime

    def describe(self) -> list[Metric]:
        """Nothing, so that registering this reads no database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        runtime = self._runtime
        with runtime.database.read() as session:
            counts, waiting = repository.count_by_state(session), deliveries.count_waiting(session)
            queued = count_waiting(session)
            states = Counter(view.state for view in node_views(session, runtime.present, now=runtime.now()))
        jobs = GaugeMetricFamily("fixnorm_tune_jobs", "Jobs by state, of all servers.", labels=["state"])
        for state in JobState:
            jobs.add_metric([state.lower()], counts.get(state, 0))
        yield jobs
        yield GaugeMetricFamily("fixnorm_tune_jobs_waiting", "Jobs that wait for room for a trial.", queued)
        yield GaugeMetricFamily("fixnorm_tune_webhooks_waiting", "Webhooks that are still to arrive.", waiting)
        total = runtime.capacity
        resources = GaugeMetricFamily("fixnorm_tune_resources", "What trials can hold.", labels=["resource"])
        resources.add_metric(["cpu"], total.cpus)
        resources.add_metric(["gpu"], total.gpus)
        yield resources
        nodes = GaugeMetricFamily("fixnorm_tune_nodes", "Nodes by what may be started there.", labels=["state"])
        for node_state in NodeState:
            nodes.add_metric([node_state.replace(" ", "_")], states[node_state])
        yield nodes
        with suppress(OSError):
            free = free_bytes(runtime.settings.state_dir)
            yield GaugeMetricFamily("fixnorm_tune_state_free_bytes", "What the state folder's disk still takes.", free)
        yield GaugeMetricFamily(
            "fixnorm_tune_dispatching",
            "1 on the server that runs jobs, else 0.",
            float(runtime.leads()),
        )
        yield InfoMetricFamily("fixnorm_tune_build", "The software that runs.", {"version": version("fixnorm-tune")})
