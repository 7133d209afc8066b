"""The dispatch loop: takes results in, decides for every job what comes next, and starts it where there is room.

One thread, of the one server that holds the lease (:mod:`service.dispatch.lease`); the others wait for it. Everything
it does can be done again after a crash, here or there: decisions are functions of what is stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from fixnorm_core.tuning.recommend import Point
from service.database.engine import Database
from service.database.rows import JobRow
from service.database.troubles import DATABASE_ERRORS, describe, trouble_of
from service.dispatch.attempts import Attempts, JobMoved
from service.dispatch.job_runner import JobRunner
from service.dispatch.lease import Lease, LeaseLost
from service.jobs import repository
from service.jobs.amended import spec_of
from service.metrics.meters import Meters
from service.queue.share import Claim, Rules, Turns
from service.queue.standing import MEMORY, Standing, last_served, load_standings
from service.studies.leftovers import end_leftovers, studies_left_open
from service.studies.studies import Studies, StudyHandle
from worker.contracts import NOTHING, Backend

__all__ = ["Dispatcher"]

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
"""How often the database is looked at for what other servers were asked; this one's own requests wake it."""

_SWEEP_SECONDS = 60.0
"""How often, beside at a takeover, ended jobs are looked at for what another server wrote to them too late."""


@dataclass(slots=True)
class Dispatcher:
    """Runs all jobs.

    Attributes:
        database: Ours.
        lease: What makes this server the one that dispatches.
        studies: Optuna's.
        backend: Where trials run; owned by the dispatcher, which closes it.
        state_dir: Where the files of jobs live.
        now: The wall clock, in UTC.
        poll_interval: Longest pause between two looks at the backend; its news ends it.
        retry_wait: How long a task rests after a first failure that is not its own.
        meters: What is counted and timed.
        rules: Of fair share.
    """

    database: Database
    lease: Lease
    studies: Studies
    backend: Backend
    state_dir: Path
    now: Callable[[], datetime]
    poll_interval: timedelta
    retry_wait: timedelta
    meters: Meters
    rules: Rules
    _attempts: Attempts = field(init=False)
    _runner: JobRunner = field(init=False)
    _wake: threading.Event = field(default_factory=threading.Event, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _settled: bool = field(default=False, init=False)
    _requests: frozenset[tuple[str, str, bool, int]] = field(default_factory=frozenset, init=False)
    _look_at: float = field(default=0.0, init=False)
    _sweep_at: float = field(default=0.0, init=False)
    _trouble: str | None = field(default=None, init=False)
    _ticked_at: datetime | None = field(default=None, init=False)
    _outage: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._attempts = Attempts(
            self.database, self.lease, self.backend, self.state_dir, self.now, self.meters, self._open_study
        )
        self._runner = JobRunner(
            self.database, self.lease, self.studies, self._attempts, self.state_dir, self.now, self.retry_wait
        )

    def start(self) -> None:
        """Takes up the jobs that an earlier server left, then runs in a thread of its own until :meth:`close`.

        While another server dispatches, waits for that one to stop instead. Idempotent.
        """
        if self._thread is not None:
            return
        if not self._lead():
            log.info("dispatch.standing_by")
        self.lease.keep()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the loop and the backend. Jobs that have not ended go on when a server starts again."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(*DATABASE_ERRORS):
            try:
                self.lease.check()
            except LeaseLost:
                self._attempts.abandon()  # idle slots too may have another owner by now
        self.backend.close()
        self.lease.close()  # now that nothing of this server's runs any more

    @property
    def leads(self) -> bool:
        """Whether this is the server that dispatches."""
        return self.lease.held

    @property
    def trouble(self) -> str | None:
        """Why the loop cannot go on; None while it can. Safe from any thread."""
        return self._trouble or self._outage

    def wake(self) -> None:
        """Has the loop look at all jobs now; called when one was submitted or is to be cancelled."""
        self._wake.set()

    def recover(self) -> None:
        """Settles what a server that is gone left behind.

        Raises:
            LeaseLost: If another server dispatches.
        """
        if not self.lease.held and not self.lease.take():
            raise LeaseLost
        found = self.backend.adopt(self.lease.term)
        with self.database.read() as session:
            jobs = repository.active_jobs(session)
        for job in jobs:
            if job.study_id is None:  # no attempt of it was ever started
                continue
            self._attempts.settle(job.id, found, reason="its server was restarted or replaced")
        self._attempts.end_unknown(found)
        self._sweep()
        self._settled = True
        self._wake.set()

    def expected(self, job_id: str) -> Mapping[Point, float] | None:
        """What the sampler of a job that runs expects at its points, as of the last look; safe from any thread."""
        return self._runner.expected(job_id)

    def tick(self) -> None:
        """One look: results in, then what can be started or a limit of time ends. Nothing while another dispatches."""
        if not self._lead():
            return
        limit, now, before = self._runner.next_limit, self.now(), self._ticked_at
        self._ticked_at = now
        set_back = before is not None and now < before  # limits that were hours away by the old clock are looked at now
        outage, self._outage = self._outage, self.backend.trouble()
        woken = self._wake.is_set() or self._outage != outage or set_back or (limit is not None and now >= limit)
        self._wake.clear()
        try:
            if self._attempts.take_in() or woken:
                self._dispatch()
        except LeaseLost:
            self._stand_down()
        except Exception:
            self._wake.set()  # what failed is tried again
            raise

    def _lead(self) -> bool:
        """Makes this the server that dispatches, if it can be; returns whether it is."""
        if self._settled and not self.lease.held:  # the thread that renews the lease found it gone
            self._stand_down()
        if not self._settled:
            try:
                self.recover()
            except LeaseLost:
                return False
        return True

    def _stand_down(self) -> None:
        """Forgets everything: the server that has the lease now has adopted it or given it up, and decides anew."""
        log.warning("dispatch.stood_down")
        self._settled = False
        self._attempts.abandon()
        self._runner.forget_all()
        self.studies.forget_all()

    def _look(self) -> None:
        """Notices what other servers were asked."""
        if self.lease.alone or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_SECONDS
        with self.database.read() as session:
            requests = repository.requests(session)
        if requests != self._requests:
            self._requests = requests
            self._wake.set()
        if time.monotonic() >= self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Ends in Optuna what a server that was suspended has written to jobs after their end."""
        self._sweep_at = time.monotonic() + _SWEEP_SECONDS
        with self.database.read() as session:
            left = studies_left_open(session)
        for study_id in left:
            self.lease.check()
            ended = end_leftovers(self.studies.storage, study_id)
            log.warning("dispatch.leftovers_ended", study=study_id, trials=ended)

    def _run(self) -> None:
        pause = self.poll_interval.total_seconds()
        while not self._stop.is_set():
            try:
                if self.leads:
                    self._look()
                self.tick()
                if self._trouble is not None:
                    log.info("dispatch.goes_on")
                self._trouble = None
                if not self.leads:
                    self._stop.wait(max(pause, self.lease.retry_seconds))
                elif not self._wake.is_set():
                    self.backend.wait(pause)
            except Exception as error:  # the loop must outlive a lost database; the next tick does the same work again
                self._note(error)
                self._stop.wait(max(1.0, pause))

    def _note(self, error: Exception) -> None:
        """Says once why the loop cannot go on, and of what nobody has foreseen where it comes from, each time."""
        trouble = trouble_of(error)
        said = describe(trouble, error, url=self.database.url) if trouble is not None else repr(error)
        if trouble is None:
            log.exception("dispatch.failed")
        elif self._trouble is None:
            log.warning("dispatch.held_up", reason=said)
        self._trouble = said

    def _dispatch(self) -> None:
        """Starts what it can, one trial at a time, each for the job whose turn it is."""
        self._runner.next_limit, now = None, self.now()
        with self.database.read() as session:
            standings = {standing.job_id: standing for standing in load_standings(session)}
            at_work = repository.jobs_of(session, (each.job_id for each in standings.values() if not _rests(each)))
            served = last_served(session, after=now - MEMORY)
        jobs = {job.id: job for job in at_work}
        held = self._attempts.held_by_job()
        claims = [standing.claim(held.get(job_id, NOTHING)) for job_id, standing in standings.items()]
        turns = Turns(claims, self.backend.capacity(), self.rules, now, served)
        free = self._attempts.free()
        while (claim := turns.pop()) is not None:
            if claim.job_id not in jobs and turns.obstacle(claim, free=free) is not None:
                continue
            if self._carry_on(claim, turns, jobs):
                turns.start(claim)
            free = self._attempts.free()
        self.meters.nothing_waits()

    def _carry_on(self, claim: Claim, turns: Turns, jobs: dict[str, JobRow]) -> bool:
        if claim.job_id not in jobs:
            with self.database.read() as session:
                jobs.update((job.id, job) for job in repository.jobs_of(session, [claim.job_id]))
        try:
            return self._runner.carry_on(jobs[claim.job_id], lambda: turns.obstacle(claim, free=self._attempts.free()))
        except JobMoved:
            self._wake.set()
            return False

    def _open_study(self, job_id: str) -> StudyHandle:
        """A job's study, for a moment in which no other server writes to it."""
        self.lease.check()
        if (study := self.studies.find(job_id)) is not None:
            return study
        with self.database.read() as session:
            job = repository.find_job(session, job_id)
        assert job is not None
        return self.studies.open(job_id, spec_of(job))


def _rests(standing: Standing) -> bool:
    """Whether there is nothing to do for a job but to start it: its row says already what it waits for."""
    return standing.has_not_begun and standing.waiting_since is not None and not standing.cancel_requested
