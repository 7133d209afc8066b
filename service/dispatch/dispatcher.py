"""The dispatch loop: takes results in, decides for every job what comes next, and starts it where there is room.

One thread, of the one server that holds the lease (:mod:`service.dispatch.lease`); the others wait for it. Everything
it does can be done again after a crash, here or there: decisions are functions of what is stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from fixnorm_core.reach import Reach
from fixnorm_core.tuning.recommend import Point
from service.database.engine import Database
from service.database.rows import JobRow
from service.database.troubles import DATABASE_ERRORS, describe, trouble_of
from service.dispatch.attempts import Attempts, JobMoved
from service.dispatch.job_runner import JobRunner
from service.dispatch.lease import Lease, LeaseLost
from service.dispatch.nodes import Nodes
from service.jobs import repository
from service.jobs.amended import spec_of
from service.jobs.files import JobFiles
from service.metrics.meters import Meters
from service.queue.share import Claim, Obstacle, Rules, Turn, Turns
from service.queue.standing import MEMORY, Standing, last_served, load_standings
from service.studies.leftovers import end_leftovers, studies_left_open
from service.studies.studies import Studies, StudyHandle
from worker.contracts import NOTHING, Backend
from worker.room import Room

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
        files: Where the files of jobs live.
        now: The wall clock, in UTC.
        poll_interval: Longest pause between two looks at the backend; its news ends it.
        retry_wait: How long a task rests after a first failure that is not its own.
        meters: What is counted and timed.
        rules: Of fair share.
        quarantine: How long a node on which trials are lost again and again is out of use at first; zero for never.
        reach: What jobs may read.
        nodes: Where trials run.
    """

    database: Database
    lease: Lease
    studies: Studies
    backend: Backend
    files: JobFiles
    now: Callable[[], datetime]
    poll_interval: timedelta
    retry_wait: timedelta
    meters: Meters
    rules: Rules
    quarantine: timedelta
    reach: Reach
    nodes: Nodes = field(init=False)
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
        self.nodes = Nodes(self.backend, self.database, self.lease, self.now, self.quarantine)
        self._attempts = Attempts(
            self.database,
            self.lease,
            self.backend,
            self.files,
            self.now,
            self.meters,
            self._open_study,
            self.nodes,
            self.reach,
        )
        self._runner = JobRunner(
            self.database, self.lease, self.studies, self._attempts, self.files, self.now, self.retry_wait
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
        self._runner.endings.close()
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
        self.nodes.load()
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
        is_due = self.nodes.have_changed() or self.nodes.is_due or set_back or (limit is not None and now >= limit)
        asked = self._wake.is_set()  # once: a call that comes after this is for the next look, and must not be lost
        woken = asked or self._outage != outage or is_due
        try:
            if asked:
                self._wake.clear()
                self.nodes.load()  # somebody may have released one
            touched = self._attempts.take_in()
            if woken or touched is not None:
                self._dispatch(None if woken else touched)
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
        if requests != self._requests or self.nodes.load():
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
                    self.nodes.have_changed()
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

    def _dispatch(self, touched: Collection[str] | None) -> None:
        """Starts what it can, one trial at a time, each for the job whose turn it is.

        Args:
            touched: The jobs that there is news of; the others need a look only if they wait for room. None when there
                may be more to do for any.
        """
        now = self.now()
        if touched is None:
            self._runner.next_limit = None
        with self.database.read() as session:
            standings = {standing.job_id: standing for standing in load_standings(session)}
            new = [job_id for job_id, each in standings.items() if _is_new(each, touched)]
            jobs = {job.id: job for job in repository.jobs_of(session, new)}
            served = last_served(session, after=now - MEMORY)
        held = self._attempts.live.held_by_job()
        claims = [standing.claim(held.get(job_id, NOTHING)) for job_id, standing in standings.items()]
        turns = Turns(claims, self.nodes.present, self.rules, now, served)
        free = self._room()
        while (claim := turns.pop()) is not None:
            if claim.job_id not in jobs:
                standing = standings[claim.job_id]
                if not standing.wants_room or _stays(standing, turns.obstacle(claim, free=free)):
                    continue
            if self._carry_on(claim, turns, jobs):
                turns.start(claim)
            free = self._room()
        self.meters.nothing_waits()

    def _room(self) -> Room:
        return self.nodes.room(self._attempts.live)

    def _carry_on(self, claim: Claim, turns: Turns, jobs: dict[str, JobRow]) -> bool:
        if claim.job_id not in jobs:
            with self.database.read() as session:
                jobs.update((job.id, job) for job in repository.jobs_of(session, [claim.job_id]))
        try:
            return self._runner.carry_on(jobs[claim.job_id], Turn(turns, claim, self._room))
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


def _is_new(standing: Standing, touched: Collection[str] | None) -> bool:
    """Whether there may be more to do for a job than to start a trial of it."""
    if touched is not None:
        return standing.job_id in touched
    return not (standing.has_not_begun and standing.waiting_since is not None) or standing.cancel_requested


def _stays(standing: Standing, obstacle: Obstacle | None) -> bool:
    """Whether a job that waits for room goes on waiting, and its row says already for what."""
    return obstacle is not None and (standing.has_not_begun or obstacle.reason == standing.reason)
