"""A slot: one process that runs one task at a time and stays warm between tasks.

Staying warm pays for imports, the CUDA context and the decoded images once. The task runs in a thread, so that the
slot answers polls while it trains. Ray turns this class into an actor (:mod:`worker.ray_backend`); by itself it is
plain Python.

A slot on an external cluster outlives its server. What keeps that safe: news is kept until its owner says that it is
stored, callers are told apart by the term of their lease, and a slot that nobody has called for long ends itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any, Protocol

from fixnorm_core.reports import EpochReport
from fixnorm_core.waits import StoreWait, wait_of
from worker.contracts import NOWHERE, Failed, Outcome, Place, Resources, Task, TrainTask
from worker.protocol import protocol_of, require_same
from worker.run_task import DataCache, Join, run_task, train_alone

__all__ = ["Claimed", "News", "NotFormed", "Slot", "SlotTaken", "Team", "own_protocol"]


class SlotTaken(Exception):
    """A server with a later term owns the slot now."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a new owner finds.

    Attributes:
        resources: What the slot holds.
        attempt_id: Whose news is not all acknowledged; None for an idle slot.
        place: Where it is, with Ray's ids of nodes.
    """

    resources: Resources
    attempt_id: str | None
    place: Place = NOWHERE


@dataclass(frozen=True, slots=True)
class News:
    """All news of the current attempt that is not acknowledged.

    Attributes:
        attempt_id: The attempt.
        skipped: How many reports came before these.
        reports: In the order of their epochs.
        outcome: Once the task has ended.
        waits: The object store that it waits for, once that has taken long.
        ended_seconds_ago: How long the outcome has been there; zero without one.
    """

    attempt_id: str
    skipped: int
    reports: tuple[EpochReport, ...]
    outcome: Outcome | None
    waits: StoreWait | None = None
    ended_seconds_ago: float = 0.0


class NotFormed(Exception):
    """The other ranks of a slot could not be started.

    Attributes:
        failed: What that makes of an attempt.
    """

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class Team(Protocol):
    """The other ranks of a slot whose trials are trained by several processes. They end with the slot's."""

    @property
    def place(self) -> Place:
        """Where all ranks are, the slot's own too."""

    def train(self, task: TrainTask, run: Callable[[Join], Outcome]) -> Outcome:
        """Trains with all ranks; returns once all have ended, or one has failed. Never raises.

        Args:
            task: What to train.
            run: Trains as rank 0.
        """


def _exit() -> None:
    os._exit(1)  # from a thread, and whatever the others do


class Slot:
    """Runs tasks one after another. All methods return at once, but for a poll that waits for news.

    Each call names the caller's term; one that is lower than another that was seen is refused with :class:`SlotTaken`.
    """

    def __init__(
        self,
        resources: Resources,
        *,
        patience_seconds: float | None = None,
        owns_process: bool = False,
        where: Callable[[], Place] = lambda: NOWHERE,
        form_team: Callable[[], Team] | None = None,
        end: Callable[[], None] = _exit,
        clock: Callable[[], float] = time.monotonic,
        told_after_seconds: float = 15.0,
    ) -> None:
        """Begins idle.

        Args:
            resources: What it holds; it only tells.
            patience_seconds: Without a call for so long it ends itself; None never.
            owns_process: Whether this process does nothing else, so that all it prints during a task is the task's log.
            where: Tells the node and the GPUs that this process has; it only tells them too.
            form_team: Starts the other ranks, where several train its trials; may raise :class:`NotFormed`.
            end: Ends this process.
            clock: Seconds that only grow.
            told_after_seconds: How long it waits for an object store before that is told.
        """
        self._told_after_seconds = told_after_seconds
        self._resources = resources
        self._own_place = where()
        self._team: Team | None = None
        self._unformed: Failed | None = None
        try:
            self._team = form_team() if form_team is not None else None
        except NotFormed as error:  # told of as the first attempt's end, after which the owner kills the slot
            self._unformed = error.failed
        self._clock = clock
        self._owns_process = owns_process
        self._cache = DataCache()
        self._lock = threading.Condition()  # notified of whatever a poll waits for
        self._term = 0
        self._called_at = clock()
        self._attempt_id: str | None = None
        self._reports: list[EpochReport] = []
        self._skipped = 0
        self._outcome: Outcome | None = None
        self._ended_at = 0.0
        self._stop_asked = threading.Event()
        self._thread: threading.Thread | None = None
        if patience_seconds is not None:
            args = (patience_seconds, end)
            threading.Thread(target=self._watch, args=args, name="patience", daemon=True).start()

    def introduce(self, term: int) -> dict[str, Any]:
        """What a caller of any build has to know of it first: whose words it speaks, what it does and what it holds.

        Nothing but builtin types, and names that no build changes: this is what all of them understand.
        """
        with self._lock:
            self._admit(term)
            held = {each.name: getattr(self._resources, each.name) for each in fields(self._resources)}
            return {
                "protocol": own_protocol(),
                "version": version("fixnorm-tune"),
                "attempt_id": self._attempt_id,
                "resources": held,
            }

    def claim(self, term: int) -> Claimed:
        """Makes the caller its owner, unless one with a later term is."""
        with self._lock:
            self._admit(term)
            self._lock.notify_all()
            return Claimed(self._resources, self._attempt_id, self.place)

    def start(self, task: Task, term: int = 0, protocol: str | None = None) -> Place:
        """Starts a task; tells where.

        Args:
            task: What to run.
            term: The caller's.
            protocol: Whose words the caller speaks; None for this build's.

        Raises:
            OtherBuild: If those are not the slot's.
            RuntimeError: If the slot is still busy; its owner has lost count.
        """
        require_same(protocol, own_protocol())
        with self._lock:
            self._admit(term)
            if self._attempt_id is not None:
                raise RuntimeError(f"slot is busy with attempt {self._attempt_id}, cannot start {task.attempt_id}")
            self._attempt_id = task.attempt_id
            self._stop_asked.clear()
            self._lock.notify_all()
        # A daemon thread: a killed slot does not wait for its epoch to end.
        self._thread = threading.Thread(target=self._run, args=(task,), name=task.attempt_id, daemon=True)
        self._thread.start()
        return self.place

    @property
    def place(self) -> Place:
        """Where it is, with the other ranks."""
        return self._own_place if self._team is None else self._team.place

    def poll(self, stored: int = 0, term: int = 0) -> News | None:
        """News of the current attempt, None when idle. Forgets its first ``stored`` reports, which the caller keeps."""
        with self._lock:
            self._admit(term)
            if self._attempt_id is None:
                return None
            if stored > self._skipped:
                del self._reports[: stored - self._skipped]
                self._skipped = stored
            ago = self._clock() - self._ended_at if self._outcome is not None else 0.0
            reports = tuple(self._reports)
            return News(self._attempt_id, self._skipped, reports, self._outcome, self._long_wait(), ago)

    def poll_of(self, attempt_id: str, told: int, stored: int, term: int, *, seconds: float) -> News | None:
        """As :meth:`poll` once that attempt has more news than ``told`` reports, and after so long whatever there is.

        It may be called beside the other methods and before the attempt's start; None if another one is running.
        """

        def has_news() -> bool:
            if term < self._term:
                return True
            is_on = self._attempt_id == attempt_id
            return is_on and (self._outcome is not None or self._skipped + len(self._reports) > told)

        with self._lock:
            self._admit(term)
            self._lock.wait_for(has_news, seconds)
            self._admit(term)
            return self.poll(stored, term) if self._attempt_id == attempt_id else None

    def free(self, attempt_id: str, term: int = 0) -> None:
        """Forgets an attempt that has ended and whose outcome the caller keeps; the slot is idle then."""
        with self._lock:
            self._admit(term)
            if self._attempt_id == attempt_id and self._outcome is not None:
                self._attempt_id = self._outcome = None
                self._reports.clear()
                self._skipped = 0

    def stop(self, attempt_id: str, term: int = 0) -> None:
        """Has a training attempt end after its present epoch; ignored when another one, or none, is running."""
        with self._lock:
            self._admit(term)
            if self._attempt_id == attempt_id:
                self._stop_asked.set()

    def _long_wait(self) -> StoreWait | None:
        if self._outcome is not None or self._thread is None:
            return None
        wait = wait_of(self._thread.ident)
        return wait if wait is not None and wait.seconds >= self._told_after_seconds else None

    def _admit(self, term: int) -> None:
        if term < self._term:
            raise SlotTaken(f"term {self._term} has this slot, and the caller's is {term}")
        self._term = term
        self._called_at = self._clock()

    def _run(self, task: Task) -> None:
        def run(join: Join) -> Outcome:
            return run_task(
                task,
                cache=self._cache,
                report=self._add,
                should_stop=self._stop_asked.is_set,
                owns_process=self._owns_process,
                join=join,
            )

        outcome: Outcome
        if self._unformed is not None:
            outcome = self._unformed
        elif self._team is not None and isinstance(task, TrainTask):
            outcome = self._team.train(task, run)
        else:
            outcome = run(train_alone)
        with self._lock:
            self._outcome, self._ended_at = outcome, self._clock()
            self._lock.notify_all()

    def _add(self, report: EpochReport) -> None:
        with self._lock:
            self._reports.append(report)
            self._lock.notify_all()

    def _watch(self, patience: float, end: Callable[[], None]) -> None:
        while (left := self._called_at + patience - self._clock()) > 0:
            time.sleep(min(left, 60.0))
        end()


def own_protocol() -> str:
    """Whose words this build speaks."""
    return protocol_of(Slot)
