"""Trials that train nothing: what is left is the service."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fixnorm_core.reports import EpochReport, Evaluation, RoleNames, TrialOutcome, TrialResult
from worker.contracts import (
    Cancelled,
    Evaluated,
    EvaluateTask,
    Node,
    Outcome,
    Place,
    Resources,
    Stopped,
    Task,
    Trained,
    Update,
)
from worker.slot import Slot

__all__ = ["SECONDS", "SPACE", "TIMES", "NullBackend", "NullSlot", "job", "null_result", "score"]

SPACE = {"lr": (1e-4, 1.0), "fc_norm": (0.25, 16.0)}

TIMES = "NULL_TIMES"
"""Names the folder where slots note when their trials begin and end."""

SECONDS = "NULL_SECONDS"
"""How long a trial on a slot takes; the slot waits that long, and computes nothing."""


def job(*, trials: int, parallel: int, epochs: int, seed: int = 0) -> dict[str, Any]:
    """A job that asks for all its trials: random points, nothing pruned, nothing confirmed, nothing stopped early."""
    return {
        "name": "null",
        "model": {"name": "small_resnet"},
        "data": {"name": "digits"},
        "training": {"epochs": max(1, epochs)},
        "search": {"sampler": "random", "pruner": "none"},
        "budget": {"max_trials": trials, "parallel_trials": parallel, "confirm_runs": 0, "stop_early": False},
        "resources": {"gpus_per_trial": 0, "cpus_per_trial": 1},
        "seed": seed,
    }


def score(lr: float, fc_norm: float) -> float:
    """A made-up accuracy."""
    return math.exp(-0.1 * math.log(lr / 0.02) ** 2 - 0.1 * math.log(fc_norm / 2.0) ** 2)


@dataclass(slots=True)
class NullBackend:
    """Every trial ends at once, after ``epochs`` reports."""

    epochs: int = 1
    total: Resources = field(default_factory=lambda: Resources(cpus=4.0, gpus=0.0))
    _news: list[Update] = field(default_factory=list)

    def adopt(self, term: int) -> Mapping[str, Resources]:  # noqa: ARG002
        self.release()
        return {}

    def trouble(self) -> str | None:
        return None

    def capacity(self) -> Resources:
        return self.total

    def nodes(self) -> Sequence[Node]:
        return [Node("null", self.total)]

    def places(self) -> Mapping[str, Place]:
        return {}

    def wait(self, seconds: float) -> None:
        if not self._news:
            time.sleep(seconds)

    def acknowledge(self, update: Update) -> None:
        pass

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:  # noqa: ARG002
        reports, outcome = _ended(task, self.epochs)
        self._news.append(Update(task.attempt_id, reports, outcome))

    def poll(self) -> Sequence[Update]:
        news, self._news = self._news, []
        return news

    def cancel(self, attempt_id: str) -> None:
        if any(update.attempt_id == attempt_id for update in self._news):
            self._news = [update for update in self._news if update.attempt_id != attempt_id]
            self._news.append(Update(attempt_id, outcome=Cancelled()))

    def stop(self, attempt_id: str) -> None:
        if any(update.attempt_id == attempt_id for update in self._news):
            self._news = [update for update in self._news if update.attempt_id != attempt_id]
            self._news.append(Update(attempt_id, outcome=Stopped()))

    def release(self) -> None:
        self._news.clear()

    def close(self) -> None:
        self.release()


class NullSlot(Slot):
    """A slot on Ray that trains nothing; notes when by a clock that all processes share."""

    def start(self, task: Task, term: int = 0, protocol: str | None = None) -> Place:
        self._note("begin", task)
        return super().start(task, term, protocol)

    def _run(self, task: Task) -> None:
        reports, outcome = _ended(task, 1)
        time.sleep(float(os.environ[SECONDS]))
        for report in reports:
            self._add(report)
        self._note("end", task)
        with self._lock:
            self._outcome = outcome
            self._lock.notify_all()

    def _note(self, what: str, task: Task) -> None:
        with (Path(os.environ[TIMES]) / str(os.getpid())).open("a") as file:
            file.write(f"{what} {task.attempt_id.partition('.')[0]} {time.monotonic()}\n")


def _ended(task: Task, epochs: int) -> tuple[tuple[EpochReport, ...], Outcome]:
    accuracy = score(task.trial.params["lr"], task.trial.params["fc_norm"])
    if isinstance(task, EvaluateTask):
        return (), Evaluated(Evaluation(split="test", accuracy=accuracy, loss=0.0, examples=360))
    reports = tuple(
        EpochReport(
            epoch=epoch,
            epochs=epochs,
            learning_rate=task.trial.params["lr"],
            train_loss=1.0,
            train_accuracy=accuracy,
            validation_loss=1.0,
            validation_accuracy=accuracy,
            head_norm=1.0,
            head_bound=None,
            seconds=0.0,
            images_per_second=0.0,
            diverged=False,
            classes=10,
        )
        for epoch in range(1, epochs + 1)
    )
    return reports, Trained(null_result(accuracy, epochs))


def null_result(accuracy: float, epochs: int) -> TrialResult:
    """What a trial leaves."""
    return TrialResult(
        outcome=TrialOutcome.COMPLETE,
        validation_accuracy=accuracy,
        validation_loss=1.0,
        validation_examples=360,
        classes=10,
        epochs=epochs,
        seconds=0.0,
        weights=None,
        roles=RoleNames(scale_invariant=(), head=(), free=()),
        device="none",
        versions={},
    )
