"""What a tracker of experiments is, to whoever tells it of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fixnorm_core.spec import JobSpec
from service.events.schemas import EventView
from service.schemas import BestView, JobState

__all__ = ["Tracked", "Tracker"]


@dataclass(frozen=True, slots=True)
class Tracked:
    """A job as a tracker sees it.

    Attributes:
        id: Its id.
        spec: As it holds now.
        state: Where it is now, which may be further than the events that are being told.
        best: What it last ended with; None if it has not.
    """

    id: str
    spec: JobSpec
    state: JobState
    best: BestView | None


class Tracker(Protocol):
    """Keeps what jobs do where people look at experiments. Used by one thread.

    Events come in the order of their numbers, and after a crash some of them come again: what it has kept already a
    tracker recognizes, by looking at it. One that cannot keep something raises, whatever it raises, and is told the
    same again later.
    """

    @property
    def name(self) -> str:
        """Short, and always the same: what it has been told is stored under it."""
        ...

    def tell(self, job: Tracked, events: Sequence[EventView]) -> None:
        """Keeps what some events of a job tell. When it returns, a kill of this process takes nothing of it away."""
        ...

    def close(self) -> None:
        """Gives back what it holds. It may be told of more all the same."""
        ...
