"""What a request handler works with: the parts of the running server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event
from typing import Annotated

from fastapi import Depends, Request
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from prometheus_client import CollectorRegistry

from fixnorm_core.tuning.recommend import Point
from service.database.engine import Database
from service.database.rows import JobRow
from service.queue.share import Rules
from service.settings import Settings
from worker.contracts import Resources

__all__ = ["Running", "Runtime"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """One server's parts, as its request handlers may use them.

    Attributes:
        settings: Its settings.
        database: Our tables.
        storage: Optuna's, for reading.
        nodes: What each machine has that trials can ever hold.
        leads: Whether this server is the one that dispatches.
        wake: Has the dispatcher look at all jobs now.
        known_trials: What the dispatcher remembers of a study's trials; None when it does not.
        expected: What the sampler of a job that runs expects at its points; None when it has no such belief.
        rules: Of fair share.
        now: The wall clock, in UTC.
        registry: What `/metrics` tells.
        trouble: Why the dispatcher cannot go on now; None while it can.
        stopping: Set when the server begins to stop; whatever streams ends then.
    """

    settings: Settings
    database: Database
    storage: BaseStorage
    nodes: Callable[[], Sequence[Resources]]
    leads: Callable[[], bool]
    wake: Callable[[], None]
    known_trials: Callable[[int], Sequence[FrozenTrial] | None]
    expected: Callable[[str], Mapping[Point, float] | None]
    rules: Rules
    now: Callable[[], datetime]
    registry: CollectorRegistry
    trouble: Callable[[], str | None]
    stopping: Event = field(default_factory=Event)

    @property
    def capacity(self) -> Resources:
        """All that trials can hold together."""
        return Resources.together(self.nodes())

    def trials(self, job: JobRow) -> Sequence[FrozenTrial]:
        """A job's trials as Optuna has them; none before its study exists.

        Where this server dispatches it has just written them, and remembers them.
        """
        if job.study_id is None:
            return []
        known = self.known_trials(job.study_id) if self.leads() else None
        if known is not None:
            return known
        return self.storage.get_all_trials(job.study_id, deepcopy=False)


def _runtime(request: Request) -> Runtime:
    runtime = request.app.state.runtime
    assert isinstance(runtime, Runtime)
    return runtime


Running = Annotated[Runtime, Depends(_runtime)]
