"""The dispatch loop: takes results in, decides for every job what comes next, and starts it where there is room.

One thread, of the one server that holds the lease (:mod:`service.dispatch.lease`); the others wait for it. Everything
it does can be done again after a crash, here or there: decisions are functions of what is stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from fixnorm_core.errors import FixNormError
from fixnorm_core.spec import BudgetSpec, JobSpec
from fixnorm_core.tuning.recommend import Point
from service.database.engine import Database
from service.database.rows import JobRow
from service.dispatch.attempts import Attempts
from service.dispatch.facts import gather
from service.dispatch.lease import Lease, LeaseLost
from service.dispatch.limits import Times, until_next_limit
from service.dispatch.policy import (
    Action,
    Ask,
    Confirm,
    EndSearch,
    EndTrials,
    Evaluate,
    Fail,
    JobFacts,
    Resume,
    Succeed,
    Wait,
    decide,
)
from service.jobs import repository
from service.jobs.views import trial_views
from service.reporting.figures import surface_chart
from service.reporting.result import write_result
from service.schemas import JobState
from service.studies.studies import Studies, StudyHandle
from worker.contracts import Backend, Resources

__all__ = ["Dispatcher"]

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
"""How often the database is looked at for what other servers were asked; this one's own requests wake it."""

_LONGEST_SLEEP = timedelta(days=1)


class _JobMoved(Exception):
    """A job is in another state than it was when it was read; it is looked at again."""


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What a job's sampler thinks after so many finished trials. It costs as much as a suggestion."""

    finished: int
    stop: str | None
    expected: Mapping[Point, float] | None


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
        poll_interval: Pause between two looks at the backend.
    """

    database: Database
    lease: Lease
    studies: Studies
    backend: Backend
    state_dir: Path
    now: Callable[[], datetime]
    poll_interval: timedelta
    _attempts: Attempts = field(init=False)
    _wake: threading.Event = field(default_factory=threading.Event, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _opinions: dict[str, _Opinion] = field(default_factory=dict, init=False)
    _next_limit: datetime | None = field(default=None, init=False)
    _settled: bool = field(default=False, init=False)
    _requests: frozenset[tuple[str, str, bool]] = field(default_factory=frozenset, init=False)
    _look_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._attempts = Attempts(self.database, self.lease, self.backend, self.state_dir, self.now, self._open_study)

    def start(self) -> None:
        """Takes up the jobs that an earlier server left, then runs in a thread of its own until :meth:`close`.

        While another server dispatches, waits for that one to stop instead.
        """
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
        self.backend.close()
        self.lease.close()  # now that nothing of this server's runs any more

    @property
    def leads(self) -> bool:
        """Whether this is the server that dispatches."""
        return self.lease.held

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
        with self.database.read() as session:
            jobs = repository.active_jobs(session)
        for job in jobs:
            self._attempts.settle(job.id, reason="its server was restarted or replaced")
        self._settled = True
        self._wake.set()

    def expected(self, job_id: str) -> Mapping[Point, float] | None:
        """What the sampler of a job that runs expects at its points, as of the last look; safe from any thread."""
        opinion = self._opinions.get(job_id)
        return opinion.expected if opinion is not None else None

    def tick(self) -> None:
        """One look: results in, then what can be started or a limit of time ends. Nothing while another dispatches."""
        if not self._lead():
            return
        woken = self._wake.is_set() or (self._next_limit is not None and self.now() >= self._next_limit)
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
        """Forgets everything: the server that has the lease now has given up what runs here, and decides anew."""
        log.warning("dispatch.stood_down")
        self._settled = False
        self._attempts.abandon()
        self._opinions.clear()
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

    def _run(self) -> None:
        pause = self.poll_interval.total_seconds()
        while not self._stop.is_set():
            try:
                if self.leads:
                    self._look()
                self.tick()
                self._stop.wait(pause if self.leads else max(pause, self.lease.retry_seconds))
            except Exception:  # the loop must outlive a lost database; the next tick does the same work again
                log.exception("dispatch.failed")
                self._stop.wait(max(1.0, pause))

    def _dispatch(self) -> None:
        """Starts what it can, one trial at a time, for the job that runs the fewest (then the oldest)."""
        self._next_limit = None
        with self.database.read() as session:
            jobs = {job.id: job for job in repository.active_jobs(session)}
        while jobs:
            job = min(jobs.values(), key=lambda job: (len(self._attempts.of(job.id)), job.created_at, job.id))
            if not self._start_one(job):
                del jobs[job.id]

    def _start_one(self, job: JobRow) -> bool:
        """Carries a job on until an attempt has started (True) or nothing more can be done now (False)."""
        try:
            if job.cancel_requested:
                self._end_job(job, JobState.CANCELLED, "cancelled by request")
                return False
            spec = JobSpec.from_stored(job.spec)
            study = self._open_study(job.id)
            self._update(job, study_id=study.id)
            while True:
                facts = self._facts(job, spec, study)
                self._look_again_in_time(spec.budget, facts.times)
                action = decide(facts)
                match action:
                    case EndSearch(reason):
                        self._update(job, stop_reason=reason)
                    case EndTrials(numbers, reason):
                        self._attempts.cancel(job.id, reason=reason, trials=numbers)
                        self.lease.check()
                        for number in numbers:  # those that no attempt was training
                            study.tell_failed(number)
                    case Resume(number) if (losing := study.reason_to_prune(number)) is not None:
                        self._attempts.prune(job.id, number, reason=losing)
                    case Wait(reason):
                        self._update(job, reason=reason)
                        return False
                    case Succeed(reason):
                        self._finish(job, spec, study, facts, state=JobState.SUCCEEDED, reason=reason)
                        return False
                    case Fail(reason):
                        self._finish(job, spec, study, facts, state=JobState.FAILED, reason=reason)
                        return False
                    case _:
                        return self._start(job, spec, study, action)
        except FixNormError as error:
            self._end_job(job, JobState.FAILED, str(error))
            return False
        except _JobMoved:
            self._wake.set()
            return False
        except (SQLAlchemyError, StorageInternalError, LeaseLost):
            raise  # the database's fault, or another server's turn, and not the job's
        except Exception as error:  # one job's fault must not hold up the others
            log.exception("job.broken", job=job.id)
            self._end_job(job, JobState.FAILED, f"internal error, see the server's log: {error!r}")
            return False

    def _start(self, job: JobRow, spec: JobSpec, study: StudyHandle, action: Action) -> bool:
        needed, free = Resources.of(spec.resources), self._attempts.free()
        if not needed.fits_in(free):
            self._update(job, reason=f"waiting for room: a trial needs {needed}, free: {free}")
            return False
        if job.state == JobState.QUEUED:
            self._update(job, state=JobState.RUNNING, reason="", started_at=self.now())
        self.lease.check()  # deciding may have taken long
        match action:
            case Ask():
                self._attempts.train(job.id, spec, study.ask())
            case Confirm(params):
                self._attempts.train(job.id, spec, study.ask_confirming(params))
            case Resume(number):
                self._attempts.train(job.id, spec, study.resume(number))
            case Evaluate(number):
                self._attempts.evaluate(job.id, spec, study.resume(number))
            case _:
                raise AssertionError(f"{action} starts nothing")
        return True

    def _facts(self, job: JobRow, spec: JobSpec, study: StudyHandle) -> JobFacts:
        with self.database.read() as session:
            rows = repository.attempts_of(session, [job.id])
        opinion = self._opinion(job, spec, study)
        return gather(
            job,
            spec,
            trials=study.trials(),
            rows=rows,
            live=self._attempts.of(job.id),
            sampler_stop=opinion.stop,
            expected=opinion.expected,
            now=self.now(),
        )

    def _opinion(self, job: JobRow, spec: JobSpec, study: StudyHandle) -> _Opinion:
        """The sampler's, asked once per finished trial."""
        finished = sum(trial.state.is_finished() for trial in study.trials())
        opinion = self._opinions.get(job.id)
        if opinion is None or opinion.finished != finished:
            searching = job.stop_reason is None and spec.budget.stop_early
            opinion = _Opinion(finished, study.stop_reason() if searching else None, study.expected())
            self._opinions[job.id] = opinion
        return opinion

    def _look_again_in_time(self, budget: BudgetSpec, times: Times) -> None:
        left = until_next_limit(budget, times)
        if left is not None:
            limit = self.now() + min(left, _LONGEST_SLEEP)
            self._next_limit = min(limit, self._next_limit or limit)

    def _finish(
        self, job: JobRow, spec: JobSpec, study: StudyHandle, facts: JobFacts, *, state: JobState, reason: str
    ) -> None:
        """Ends a job and keeps what it has found: the trials of a night are worth something even if its end failed."""
        if facts.best is None:
            self._end_job(job, state, reason)
            return
        with self.database.read() as session:
            rows = repository.attempts_of(session, [job.id])
        best = write_result(
            self.state_dir, job, spec, trials=study.trials(), rows=rows, best=facts.best, stop_reason=reason
        )
        views = trial_views(spec, study.trials(), attempts=rows, now=self.now())
        study.show(surface_chart(spec, views, best=best, study=study.study))
        self._end_job(job, state, reason, result=best.model_dump(mode="json"))

    def _end_job(self, job: JobRow, state: JobState, reason: str, **values: object) -> None:
        """Ends a job: first everything that runs, then its state."""
        self._attempts.cancel(
            job.id, reason="the job was cancelled" if state is JobState.CANCELLED else "the job has ended"
        )
        if job.study_id is not None:
            self._open_study(job.id).end_open_trials()
            self._attempts.tell_events(job.id)
        self._update(job, state=state, reason=reason, ended_at=self.now(), **values)
        self.studies.forget(job.id)
        self._opinions.pop(job.id, None)
        log.info("job.ended", job=job.id, state=state, reason=reason)

    def _update(self, job: JobRow, *, state: JobState | None = None, **values: object) -> None:
        """Changes the stored job and this copy of it; writes nothing that is not new.

        Raises:
            _JobMoved: If the stored job is in another state than this copy of it.
        """
        changed = {name: value for name, value in values.items() if getattr(job, name) != value}
        origin, to = JobState(job.state), state or JobState(job.state)
        if not changed and to is origin:
            return
        with self.lease.writing() as session:
            if to is origin:
                is_there = repository.update_job(session, job.id, origin, **changed)
            else:
                is_there = repository.move_job(session, job.id, origin, to, **changed)
        if not is_there:
            raise _JobMoved
        for name, value in (changed | {"state": to}).items():
            setattr(job, name, value)

    def _open_study(self, job_id: str) -> StudyHandle:
        """A job's study, for a moment in which no other server writes to it."""
        self.lease.check()
        if (study := self.studies.find(job_id)) is not None:
            return study
        with self.database.read() as session:
            job = repository.find_job(session, job_id)
        assert job is not None
        return self.studies.open(job_id, JobSpec.from_stored(job.spec))
