"""Trials whose files are kept in an object store, for the tests of what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from buckets import Bucket

from fixnorm_core.artifacts import Artifacts, log_name
from fixnorm_core.reports import EpochReport
from fixnorm_core.spec import TrialSpec
from worker.contracts import EvaluateTask, Outcome, TrainTask
from worker.run_task import DataCache, run_task

__all__ = ["ROOT", "Killed", "Node"]

ROOT = "kept"
"""Of the bucket, what is kept lies below it."""


class Killed(BaseException):
    """Ends an attempt as a kill would: nothing of it is told, and nothing more is put away."""


class Node:
    """Attempts at one trial, each with a scratch folder of its own."""

    def __init__(self, bucket: Bucket, cache: DataCache, trial: TrialSpec, folder: Path, name: str) -> None:
        self.bucket, self.cache, self.trial, self.folder = bucket, cache, trial, folder
        self.prefix = f"jobs/{name}/trials/0000"
        self.reports: list[EpochReport] = []

    def artifacts(self, attempt: int, *, patience: float = 0.0) -> Artifacts:
        return Artifacts(f"{self.bucket.url}/{ROOT}", self.prefix, attempt, str(self.folder / str(attempt)), patience)

    def train(
        self, attempt: int, *, kill_after: int = 0, stop: Callable[[], bool] = lambda: False, patience: float = 0.0
    ) -> Outcome:
        def report(epoch: EpochReport) -> None:
            self.reports.append(epoch)
            if epoch.epoch == kill_after:
                raise Killed

        kept = self.artifacts(attempt, patience=patience)
        task = TrainTask(f"t.{attempt}", self.trial, "/nowhere/at/all", artifacts=kept)
        return run_task(task, cache=self.cache, report=report, should_stop=stop)

    def train_and_die(self, attempt: int, *, after: int) -> None:
        with pytest.raises(Killed):
            self.train(attempt, kill_after=after)

    def evaluate(self, attempt: int) -> Outcome:
        task = EvaluateTask(f"t.{attempt}", self.trial, "/nowhere/at/all", artifacts=self.artifacts(attempt))
        return run_task(task, cache=self.cache, report=lambda _: None)

    def names(self) -> list[str]:
        start = len(f"{ROOT}/{self.prefix}/")
        return [key[start:] for key in self.bucket.keys(f"{ROOT}/{self.prefix}/") if "/logs/" not in key]

    def content(self, name: str) -> bytes:
        return self.bucket.content(f"{ROOT}/{self.prefix}/{name}")

    def put(self, name: str, content: bytes) -> None:
        self.bucket.put(f"{ROOT}/{self.prefix}/{name}", content)

    def log(self, attempt: int) -> str:
        """Of an attempt; empty if it has logged nothing."""
        key = f"{ROOT}/{self.prefix}/{log_name(f't.{attempt}')}"
        return self.bucket.content(key).decode() if self.bucket.keys(key) else ""
