"""The simulator backend: replays recorded learning curves, so that a whole job takes milliseconds.

It keeps the contract of every backend, so that the service can be tested, and tried, without training anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fixnorm_core.reports import EpochReport, Evaluation, RoleNames, TrialOutcome, TrialResult
from worker.contracts import (
    Cancelled,
    Evaluated,
    EvaluateTask,
    Failed,
    FailureKind,
    Node,
    Outcome,
    Place,
    Resources,
    Stopped,
    Task,
    Trained,
    TrainTask,
    Update,
)
from worker.recording import Recording, Run
from worker.room import Room

__all__ = ["SimulatorBackend"]


@dataclass(slots=True)
class _Replay:
    task: Task
    run: Run
    started: float
    epochs_told: int = 0


@dataclass(slots=True)
class SimulatorBackend:
    """Replays a recording.

    Attributes:
        recording: The curves.
        total: What trials can hold together on one machine.
        machines: Several of them, in place of that one.
        epoch_seconds: How long a replayed epoch takes; 0 tells one more epoch at every poll.
        clock: Monotonic seconds.
    """

    recording: Recording
    total: Resources = field(default_factory=lambda: Resources(cpus=4.0, gpus=0.0))
    epoch_seconds: float = 0.0
    clock: Callable[[], float] = time.monotonic
    machines: Sequence[Node] = ()
    _replays: dict[str, _Replay] = field(default_factory=dict, init=False)
    _news: list[Update] = field(default_factory=list, init=False)
    _told: list[Update] = field(default_factory=list, init=False)
    _held: dict[str, Resources] = field(default_factory=dict, init=False)
    _places: dict[str, Place] = field(default_factory=dict, init=False)

    def adopt(self, term: int) -> Mapping[str, Resources]:  # noqa: ARG002 - one process has one dispatcher
        """What an earlier server in this process has left."""
        self._news, self._told = self._told + self._news, []
        return dict(self._held)

    def trouble(self) -> str | None:
        """None."""
        return None

    def capacity(self) -> Resources:
        """What it was built with."""
        return Resources.together(node.total for node in self.nodes())

    def nodes(self) -> Sequence[Node]:
        """What it was built with."""
        return self.machines or (Node("simulator", self.total),)

    def places(self) -> Mapping[str, Place]:
        """Those that were chosen."""
        return {attempt_id: place for attempt_id, place in self._places.items() if attempt_id in self._held}

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:
        """Starts a replay; a job that tunes other knobs than the recorded ones fails."""
        room = Room.of(self.nodes())
        for attempt_id, held in self._held.items():
            room.take(held, self._places.get(attempt_id))
        place = room.place_for(resources, nodes or room.nodes_for(resources))
        self._places[task.attempt_id] = place or Place(self.nodes()[0].name)
        self._held[task.attempt_id] = resources
        if task.trial.method is not self.recording.method:
            message = f"the simulator replays {self.recording.method} curves, not {task.trial.method}"
            self._news.append(Update(task.attempt_id, outcome=Failed(FailureKind.FATAL, message)))
            return
        run = self.recording.at(task.trial.params, seed=task.trial.seed)
        self._replays[task.attempt_id] = _Replay(task, run, started=self.clock())

    def poll(self) -> Sequence[Update]:
        """Advances every replay and tells of it."""
        news = [self._placed(update) for update in self._news]
        self._news.clear()
        for attempt_id, replay in list(self._replays.items()):
            update = self._placed(self._advance(attempt_id, replay))
            if update.outcome is not None:
                del self._replays[attempt_id]
            if update.reports or update.outcome is not None:
                news.append(update)
        self._told.extend(news)
        return news

    def wait(self, seconds: float) -> None:
        """Sleeps: without a pause it would be over at once."""
        time.sleep(seconds)

    def acknowledge(self, update: Update) -> None:
        """Forgets it."""
        if update in self._told:
            self._told.remove(update)
        if update.outcome is not None:
            self._held.pop(update.attempt_id, None)
            self._places.pop(update.attempt_id, None)

    def cancel(self, attempt_id: str) -> None:
        """Ends a replay."""
        self._held.pop(attempt_id, None)
        if self._replays.pop(attempt_id, None) is not None:
            self._news.append(Update(attempt_id, outcome=Cancelled()))

    def stop(self, attempt_id: str) -> None:
        """Ends a replay of training where it is."""
        if isinstance(getattr(self._replays.get(attempt_id), "task", None), TrainTask):
            del self._replays[attempt_id]
            self._news.append(Update(attempt_id, outcome=Stopped()))

    def release(self) -> None:
        """Ends every replay and forgets its news."""
        for kept in (self._replays, self._news, self._told, self._held, self._places):
            kept.clear()

    def close(self) -> None:
        """Ends every replay."""
        self.release()

    def _placed(self, update: Update) -> Update:
        """With where it ran."""
        if update.outcome is None or update.place is not None:
            return update
        return replace(update, place=self._places.get(update.attempt_id))

    def _advance(self, attempt_id: str, replay: _Replay) -> Update:
        if isinstance(replay.task, EvaluateTask):
            return Update(attempt_id, outcome=self._evaluated(replay.run))
        planned = len(replay.run.validation_accuracy)
        due = replay.epochs_told + 1
        if self.epoch_seconds > 0:
            due = int((self.clock() - replay.started) / self.epoch_seconds)
        due = min(due, planned)
        reports = tuple(self._report(replay, epoch) for epoch in range(replay.epochs_told, due))
        replay.epochs_told = due
        return Update(attempt_id, reports, self._trained(replay) if due == planned else None)

    def _report(self, replay: _Replay, epoch: int) -> EpochReport:
        run = replay.run
        return EpochReport(
            epoch=epoch + 1,
            epochs=self.recording.job.training.epochs,
            learning_rate=run.params["lr"],
            train_loss=run.train_loss[epoch],
            train_accuracy=run.train_accuracy[epoch],
            validation_loss=run.validation_loss[epoch],
            validation_accuracy=run.validation_accuracy[epoch],
            head_norm=run.head_norm[epoch],
            head_bound=None,
            seconds=run.seconds,
            images_per_second=0.0,
            diverged=run.diverged and epoch + 1 == len(run.validation_accuracy),
            classes=self.recording.classes,
        )

    def _trained(self, replay: _Replay) -> Outcome:
        assert isinstance(replay.task, TrainTask)
        run = replay.run
        return Trained(
            TrialResult(
                outcome=TrialOutcome.DIVERGED if run.diverged else TrialOutcome.COMPLETE,
                validation_accuracy=run.validation_accuracy[-1],
                validation_loss=run.validation_loss[-1],
                validation_examples=self.recording.validation_examples,
                classes=self.recording.classes,
                epochs=len(run.validation_accuracy),
                seconds=run.seconds * len(run.validation_accuracy),
                weights=None,  # nothing was trained, so there is nothing to keep
                roles=RoleNames(scale_invariant=(), head=(), free=()),
                device="simulator",
                versions={},
            )
        )

    def _evaluated(self, run: Run) -> Evaluated:
        return Evaluated(
            Evaluation(split="test", accuracy=run.test_accuracy, loss=0.0, examples=self.recording.test_examples)
        )
