"""A slot: one process that runs one task at a time and stays warm between tasks.

Staying warm pays for imports, the CUDA context and the decoded images once. The task runs in a thread, so that the
slot answers polls while it trains. Ray turns this class into an actor (:mod:`worker.ray_backend`); by itself it is
plain Python.
"""

from __future__ import annotations

import threading
from collections import deque

from fixnorm_core.reports import EpochReport
from worker.contracts import Outcome, Task, Update
from worker.run_task import DataCache, run_task

__all__ = ["Slot"]


class Slot:
    """Runs tasks one after another. All methods return at once."""

    def __init__(self) -> None:
        self._cache = DataCache()
        self._lock = threading.Lock()
        self._attempt_id: str | None = None
        self._reports: deque[EpochReport] = deque()
        self._outcome: Outcome | None = None
        self._stop_asked = threading.Event()

    def start(self, task: Task) -> None:
        """Starts a task.

        Raises:
            RuntimeError: If the slot is still busy; its owner has lost count.
        """
        with self._lock:
            if self._attempt_id is not None:
                raise RuntimeError(f"slot is busy with attempt {self._attempt_id}, cannot start {task.attempt_id}")
            self._attempt_id = task.attempt_id
            self._stop_asked.clear()
        # A daemon thread: a killed slot does not wait for its epoch to end.
        threading.Thread(target=self._run, args=(task,), name=task.attempt_id, daemon=True).start()

    def poll(self) -> Update | None:
        """News of the current attempt since the last poll, None when idle. After its outcome the slot is free."""
        with self._lock:
            if self._attempt_id is None:
                return None
            update = Update(self._attempt_id, tuple(self._reports), self._outcome)
            self._reports.clear()
            if self._outcome is not None:
                self._attempt_id = self._outcome = None
            return update

    def stop(self, attempt_id: str) -> None:
        """Has a training attempt end after its present epoch; ignored when another one, or none, is running."""
        with self._lock:
            if self._attempt_id == attempt_id:
                self._stop_asked.set()

    def _run(self, task: Task) -> None:
        outcome = run_task(task, cache=self._cache, report=self._add, should_stop=self._stop_asked.is_set)
        with self._lock:
            self._outcome = outcome

    def _add(self, report: EpochReport) -> None:
        with self._lock:
            self._reports.append(report)
