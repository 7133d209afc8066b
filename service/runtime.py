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

from fixnorm_core.reach import Reach
from fixnorm_core.tuning.recommend import Point
from service.access.callers import Access
from service.database.engine import Database
from service.database.rows import JobRow
from service.jobs.files import JobFiles
from service.queue.share import Rules
from service.settings import Settings
from worker.contracts import Node, Resources
from worker.room import Layout

__all__ = ["Running", "Runtime"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """One server's parts, as its request handlers may use them.

    Attributes:
        settings: Its settings.
        access: Who is let in.
        database: Our tables.
        storage: Optuna's, for reading.
        nodes: The machines that trials can run on now, or have been able to since the server's start.
        layout: What is held on which of them; those that are there now where another server knows.
        leads: Whether this server is the one that dispatches.
        wake: Has the dispatcher look at all jobs now.
        known_trials: What the dispatcher remembers of a study's trials; None when it does not.
        expected: What the sampler of a job that runs expects at its points; None when it has no such belief.
        rules: Of fair share.
        reach: What jobs may read.
        now: The wall clock, in UTC.
        registry: What `/metrics` tells.
        trouble: Why the dispatcher cannot go on now; None while it can.
        files: Where the files of jobs are.
        stopping: Set when the server begins to stop; whatever streams ends then.
    """

    settings: Settings
    access: Access
    database: Database
    storage: BaseStorage
    nodes: Callable[[], Sequence[Node]]
    layout: Callable[[], Layout | Sequence[Node]]
    leads: Callable[[], bool]
    wake: Callable[[], None]
    known_trials: Callable[[int], Sequence[FrozenTrial] | None]
    expected: Callable[[str], Mapping[Point, float] | None]
    rules: Rules
    reach: Reach
    now: Callable[[], datetime]
    registry: CollectorRegistry
    trouble: Callable[[], str | None]
    files: JobFiles
    stopping: Event = field(default_factory=Event)

    @property
    def present(self) -> Sequence[Node]:
        """The machines that are there now."""
        layout = self.layout()
        return layout.nodes if isinstance(layout, Layout) else layout

    @property
    def capacity(self) -> Resources:
        """All that trials can hold together now."""
        return Resources.together(node.total for node in self.present)

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


async def _runtime(request: Request) -> Runtime:  # so that it needs no thread
    runtime = request.app.state.runtime
    assert isinstance(runtime, Runtime)
    return runtime


Running = Annotated[Runtime, Depends(_runtime)]
