"""A backend that trains for real, in threads of this process: no Ray, and nothing to kill."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from worker.contracts import Cancelled, Node, Place, Resources, Task, Update
from worker.slot import Slot


class ThreadBackend:
    """One new slot for each task. Torch's settings are the process's, so run one trial at a time."""

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}
        self._news: list[Update] = []

    def adopt(self, term: int) -> Mapping[str, Resources]:  # noqa: ARG002 - it has one server
        return {}

    def trouble(self) -> str | None:
        return None

    def capacity(self) -> Resources:
        return Resources(cpus=1.0, gpus=0.0)

    def nodes(self) -> Sequence[Node]:
        return (Node("threads", self.capacity()),)

    def places(self) -> Mapping[str, Place]:
        return {}

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:  # noqa: ARG002
        self._slots[task.attempt_id] = slot = Slot(resources)
        slot.start(task)

    def poll(self) -> Sequence[Update]:
        if self._slots:
            time.sleep(0.02)  # a loop of polls would keep the trial's thread from the interpreter
        news, self._news = self._news, []
        for attempt_id, slot in list(self._slots.items()):
            told = slot.poll()
            assert told is not None
            slot.poll(told.skipped + len(told.reports))  # nobody else will ask for them
            if told.outcome is not None:
                del self._slots[attempt_id]
            if told.reports or told.outcome is not None:
                news.append(Update(attempt_id, told.reports, told.outcome))
        return news

    def acknowledge(self, update: Update) -> None:
        """Nothing is kept."""

    def cancel(self, attempt_id: str) -> None:
        """A thread cannot be killed: it goes on, unheard, to the end of its epoch."""
        if (slot := self._slots.pop(attempt_id, None)) is not None:
            slot.stop(attempt_id)
            self._news.append(Update(attempt_id, outcome=Cancelled()))

    def stop(self, attempt_id: str) -> None:
        if (slot := self._slots.get(attempt_id)) is not None:
            slot.stop(attempt_id)

    def release(self) -> None:
        for attempt_id in list(self._slots):
            self.cancel(attempt_id)
        self._news.clear()

    def close(self) -> None:
        self.release()
