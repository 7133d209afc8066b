"""Reads the events of jobs and tells a tracker of them, in a thread of its own: no job waits for it, or ends by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from sqlalchemy.orm import Session

from service.database.engine import Database
from service.database.troubles import trouble_of
from service.events.records import events_after
from service.jobs import repository
from service.jobs.amended import spec_of
from service.schemas import BestView, JobState
from service.trackers import positions
from service.trackers.contracts import Tracked, Tracker
from service.trackers.positions import Position

__all__ = ["PAUSES_SECONDS", "Follower"]

PAUSES_SECONDS = (2.0, 10.0, 60.0, 300.0)
"""After the first failure in a row, of a tracker or of one job with it, the second and so on; then the last one."""

_LOOK_EVERY_SECONDS = 1.0
_STORE_EVERY_SECONDS = 10.0
_EVENTS_AT_ONCE = 500
_PATIENCE_SECONDS = 5.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Follower:
    """Tells one tracker of all jobs, on the server that runs them.

    How far it is, is stored every few seconds and at the end of a job; what was told after that is told again after a
    crash, and the tracker knows it. A job that the tracker cannot be told of comes after the others at the next look,
    and rests longer each time, so that it holds up none of them.

    Attributes:
        tracker: Whom it tells.
        database: Ours.
        leads: Whether this server is the one that runs jobs; the others leave it to that one.
        clock: Seconds that never go back.
    """

    tracker: Tracker
    database: Database
    leads: Callable[[], bool]
    clock: Callable[[], float]
    _told: dict[str, int] = field(default_factory=dict, init=False)
    _stored_at: dict[str, float] = field(default_factory=dict, init=False)
    _enrolled: bool = field(default=False, init=False)
    _failures: int = field(default=0, init=False)
    _failed: dict[str, tuple[int, float]] = field(default_factory=dict, init=False)  # failures in a row, rests until
    _has_warned: bool = field(default=False, init=False)
    _rests_until: float = field(default=0.0, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Looks for news every second, until :meth:`close`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"tracker {self.tracker.name}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Tells what there is still to tell, if the tracker takes it soon; the rest is told after the next start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE_SECONDS)

    def look(self) -> int:
        """Tells what is new, unless the tracker rests after a failure; returns the number of events."""
        if not self.leads():
            self._forget()
            return 0
        if self.clock() < self._rests_until:
            return 0
        if not self._enrolled:
            with self.database.write.begin() as session:
                positions.enroll_active(session, self.tracker.name)
            self._enrolled = True
        with self.database.read() as session:
            behind = positions.behind(session, self.tracker.name)
        behind = sorted(behind, key=lambda position: self._failed.get(position.job_id, (0, 0.0))[0])
        return sum(self._follow(position) for position in behind)

    def _follow(self, position: Position) -> int:
        """Tells what is new of one job, and that it is over."""
        job_id, told = position.job_id, self._told.get(position.job_id, position.told)
        before = told
        if self.clock() < self._failed.get(job_id, (0, 0.0))[1]:
            return 0
        while told < position.last and self.clock() >= self._rests_until and self.leads():
            with self.database.read() as session:
                events = events_after(session, job_id, told, limit=_EVENTS_AT_ONCE)
                job = self._job(session, job_id)
            if job is None:  # it was removed meanwhile
                self._drop(job_id)
                return told - before
            try:
                self.tracker.tell(job, events)
            except Exception as error:  # the boundary: a tracker's fault is no job's
                self._rest(error, job_id)
                break
            self._works_again(job_id)
            told = self._told[job_id] = events[-1].number
        self._store(position, told)
        return told - before

    def _store(self, position: Position, told: int) -> None:
        job_id = position.job_id
        if told < position.last:
            return
        due = self.clock() >= self._stored_at.get(job_id, float("-inf")) + _STORE_EVERY_SECONDS
        if position.has_ended:
            with self.database.write.begin() as session:
                is_over = positions.complete(session, job_id, self.tracker.name, told)
            if is_over:
                self._drop(job_id)
        elif told > position.told and due:
            with self.database.write.begin() as session:
                positions.advance(session, job_id, self.tracker.name, told)
            self._stored_at[job_id] = self.clock()

    def _drop(self, job_id: str) -> None:
        self._told.pop(job_id, None)
        self._stored_at.pop(job_id, None)
        self._failed.pop(job_id, None)

    def _job(self, session: Session, job_id: str) -> Tracked | None:
        job = repository.find_job(session, job_id)
        if job is None:
            return None
        best = BestView.model_validate(job.result) if job.result is not None else None
        return Tracked(job.id, spec_of(job), JobState(job.state), best)

    def _rest(self, error: Exception, job_id: str) -> None:
        of_job, _ = self._failed.get(job_id, (0, 0.0))
        if of_job == 0 and not self._has_warned:
            reason = f"{type(error).__name__}: {error}"
            log.warning("tracker.failed", tracker=self.tracker.name, job=job_id, reason=reason, exc_info=error)
            self._has_warned = True
        now = self.clock()
        self._failed[job_id] = (of_job + 1, now + _pause(of_job))
        self._rests_until = now + _pause(self._failures)
        self._failures += 1

    def _works_again(self, job_id: str) -> None:
        if self._has_warned:
            log.info("tracker.works_again", tracker=self.tracker.name, failures=self._failures)
        self._failures, self._has_warned = 0, False
        self._failed.pop(job_id, None)

    def _forget(self) -> None:
        """Another server tells on; what is to be told after that is found in what is stored."""
        if self._enrolled:
            self.tracker.close()
        self._told.clear()
        self._stored_at.clear()
        self._failed.clear()
        self._enrolled = False

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_SECONDS):
            self._look_safely()
        self._rests_until = 0.0
        self._failed.clear()
        self._look_safely()
        self.tracker.close()

    def _look_safely(self) -> None:
        try:
            self.look()
        except Exception as error:  # the loop must outlive a lost database; what is behind still is
            if trouble_of(error) is None:
                log.exception("tracker.look_failed", tracker=self.tracker.name)


def _pause(failures: int) -> float:
    return PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)]
