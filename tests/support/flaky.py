"""A simulator whose first tasks fail."""

from __future__ import annotations

from collections.abc import Sequence

from worker.contracts import EvaluateTask, Failed, FailureKind, Resources, Task, TrainTask, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend


class FlakyBackend(SimulatorBackend):
    """Fails the first attempts that it is given, or those of one kind."""

    losses: int = 0
    kind: FailureKind = FailureKind.RETRYABLE
    of: type[TrainTask] | type[EvaluateTask] = TrainTask

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:
        if self.losses > 0 and isinstance(task, self.of):
            self.losses -= 1
            self._news.append(Update(task.attempt_id, outcome=Failed(self.kind, "the worker was lost")))
        else:
            super().start(task, resources, nodes)


def flaky(
    losses: int,
    kind: FailureKind = FailureKind.RETRYABLE,
    *,
    of: type[TrainTask] | type[EvaluateTask] = TrainTask,
) -> FlakyBackend:
    backend = FlakyBackend(Recording.packaged())
    backend.losses, backend.kind, backend.of = losses, kind, of
    return backend
