"""What ``/api/v1/queue`` answers. Shared by server, client and CLI, as :mod:`service.schemas`."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from service.nodes.schemas import NodeView
from service.schemas import JobState

__all__ = ["Amount", "QueueEntry", "QueueView"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Amount(_View):
    """Of what trials hold."""

    cpus: float
    gpus: float


class QueueEntry(_View):
    """A job that has not ended, and its part in what there is.

    Attributes:
        reason: Why it waits, down to what is free now, if it waits; else why it is in its state.
        user: ``share.user`` of its spec; ``weight`` and ``priority`` likewise.
        held: What its running trials hold together.
        needed: What one trial of it holds.
        waiting_since: Since when a trial of it has wanted to start; None when none waits for room.
        place: Among those that wait, from 1; None likewise.
    """

    id: str
    name: str
    state: JobState
    reason: str
    user: str | None
    weight: float
    priority: int
    held: Amount
    needed: Amount
    waiting_since: datetime | None
    place: int | None


class QueueView(_View):
    """Who holds what, and who waits for it.

    Attributes:
        capacity: All that trials can hold together.
        held: What they hold now.
        jobs: All that have not ended: those that wait by their place, then the others, oldest first.
        nodes: The machines that trials run on, and which of them are out of use.
    """

    capacity: Amount
    held: Amount
    jobs: tuple[QueueEntry, ...]
    nodes: tuple[NodeView, ...] = ()
