"""Carries one job on: decides what comes next for it, and acts on that.

The same decisions follow from the same stored facts, so whatever is interrupted here is done again after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from fixnorm_core.data.store import BucketDown
from fixnorm_core.disk import full_disk, no_space_at
from fixnorm_core.errors import FixNormError
from fixnorm_core.spec import BudgetSpec, JobSpec
from fixnorm_core.tuning.recommend import Point, recommend
from service.database.engine import Database
from service.database.rows import JobRow
from service.dispatch.actions import (
    Action,
    Ask,
    Cancel,
    Confirm,
    EndAttempts,
    EndSearch,
    EndTrials,
    Evaluate,
    Fail,
    Resume,
    Retry,
    Succeed,
    Wait,
)
from service.dispatch.attempts import Attempts, JobMoved
from service.dispatch.disk import waits_for_disk
from service.dispatch.endings import Endings
from service.dispatch.facts import gather
from service.dispatch.lease import Lease, LeaseLost
from service.dispatch.limits import until_next_limit
from service.dispatch.policy import JobFacts, decide
from service.events.records import last_of
from service.jobs import repository
from service.jobs.amended import spec_of
from service.jobs.files import JobFiles
from service.jobs.folders import best_folder, ending_name
from service.jobs.reopening import CUT_OFF
from service.jobs.views import trial_views, validation_examples
from service.queue.share import Obstacle, Turn
from service.reporting.figures import surface_chart
from service.reporting.result import write_result
from service.schemas import EventKind, JobState
from service.studies.studies import Studies, StudyHandle

__all__ = ["JobRunner"]

log = structlog.get_logger(__name__)

_LONGEST_SLEEP = timedelta(days=1)
_DISK_WAIT = timedelta(seconds=30)
_STORE_WAIT = timedelta(seconds=30)
_WRITING_WAIT = timedelta(milliseconds=100)
_WHY_ENDED = {JobState.CANCELLED: "the job was cancelled", JobState.FAILED: CUT_OFF}


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What a job's sampler thinks after so many finished trials, asked under terms that were changed so often.

    It costs as much as a suggestion.
    """

    finished: int
    amendments: int
    stop: str | None
    expected: Mapping[Point, float] | None


@dataclass(slots=True)
class JobRunner:
    """Carries jobs on, one at a time. Used by the dispatcher's thread alone, but for :meth:`expected`.

    Attributes:
        database: Ours.
        lease: What makes this server the one that dispatches.
        studies: Optuna's.
        attempts: Those of all jobs.
        files: Where the files of jobs live.
        now: The wall clock, in UTC.
        retry_wait: How long a task rests after a first failure that is not its own.
        next_limit: When the next limit of time strikes, of the jobs that were carried on since it was last None.
    """

    database: Database
    lease: Lease
    studies: Studies
    attempts: Attempts
    files: JobFiles
    now: Callable[[], datetime]
    retry_wait: timedelta
    next_limit: datetime | None = field(default=None, init=False)
    endings: Endings = field(default_factory=Endings, init=False)
    _opinions: dict[str, _Opinion] = field(default_factory=dict, init=False)

    def expected(self, job_id: str) -> Mapping[Point, float] | None:
        """What the sampler of a job that runs expects at its points, as of the last look; safe from any thread."""
        opinion = self._opinions.get(job_id)
        return opinion.expected if opinion is not None else None

    def forget_all(self) -> None:
        """Forgets what the samplers think: another server goes on with the jobs."""
        self._opinions.clear()
        self.endings.forget_all()

    def carry_on(self, job: JobRow, turn: Turn) -> bool:
        """Carries a job on until an attempt has started (True) or nothing more can be done now (False).

        Args:
            job: The job.
            turn: Tells what keeps a trial of it from starting now, and where one may be started.

        Raises:
            JobMoved: If somebody else changed its state meanwhile.
            LeaseLost: If another server dispatches.
            sqlalchemy.exc.SQLAlchemyError: If the database failed; the same may be tried again.
        """
        try:
            if job.cancel_requested:
                self._end_job(job, JobState.CANCELLED, "cancelled by request")
                return False
            spec = spec_of(job)
            is_new = job.state == JobState.QUEUED and job.started_at is None
            if is_new and not self._is_late(spec.budget) and self._must_wait(job, turn):
                return False  # nothing of it can have ended, so there is nothing to decide: its study stays unopened
            study = self.attempts.open_study(job.id)
            study.spec = spec  # it may have been changed since the study was opened
            self._update(job, study_id=study.id)
            while True:
                facts = self._facts(job, spec, study)
                self._look_again_in_time(spec.budget, facts)
                action = decide(facts)
                match action:
                    case EndSearch(reason):
                        self._update(job, stop_reason=reason)
                    case EndTrials(numbers, reason):
                        self.attempts.cancel(job.id, reason=reason, trials=numbers)
                        self.lease.check()
                        for number in numbers:  # those that no attempt was training
                            study.tell_failed(number)
                    case EndAttempts(overdue, reason):
                        self.attempts.fail(overdue, reason=reason)
                    case Resume(number) if (losing := study.reason_to_prune(number)) is not None:
                        self.attempts.prune(job, number, reason=losing)
                    case Wait(reason):
                        is_paused = job.state == JobState.PAUSED  # for a reason that may say what to do
                        outage = None if is_paused else self.attempts.backend.trouble()
                        self._update(job, reason=outage or reason, waiting_since=None)
                        return False
                    case Succeed(reason):
                        self._finish(job, spec, study, state=JobState.SUCCEEDED, reason=reason)
                        return False
                    case Fail(reason):
                        self._finish(job, spec, study, state=JobState.FAILED, reason=reason)
                        return False
                    case Cancel(reason):
                        self._finish(job, spec, study, state=JobState.CANCELLED, reason=reason)
                        return False
                    case _:
                        if self._must_wait(job, turn):
                            return False
                        self._start(job, spec, study, action, turn.nodes())
                        return True
        except FixNormError as error:
            self._end_job(job, JobState.FAILED, str(error))
            return False
        except (SQLAlchemyError, StorageInternalError, LeaseLost, JobMoved):
            raise  # the database's fault, or somebody else's turn, and not the job's
        except Exception as error:  # one job's fault must not hold up the others
            if full_disk(error) is not None:
                self._wait_for_disk(job)
                return False
            log.exception("job.broken", job=job.id)
            self._end_job(job, JobState.FAILED, f"internal error, see the server's log: {error!r}")
            return False

    def _start(self, job: JobRow, spec: JobSpec, study: StudyHandle, action: Action, nodes: Sequence[str]) -> None:
        if job.state == JobState.QUEUED:
            self._update(job, state=JobState.RUNNING, reason="", started_at=self.now())
        self.lease.check()  # deciding may have taken long
        match action:
            case Ask():
                with self.attempts.meters.suggesting():
                    asked = study.ask()
                self.attempts.train(job, spec, asked, nodes=nodes)
            case Retry(number):
                self.attempts.train(job, spec, study.ask_again(number), nodes=nodes)
            case Confirm(params):
                self.attempts.train(job, spec, study.ask_confirming(params), nodes=nodes)
            case Resume(number):
                self.attempts.train(job, spec, study.resume(number), nodes=nodes)
            case Evaluate(number):
                self.attempts.evaluate(job, spec, study.resume(number), nodes=nodes)
            case _:
                raise AssertionError(f"{action} starts nothing")
        job.waiting_since = None  # as is stored with the attempt

    def _must_wait(self, job: JobRow, turn: Turn) -> bool:
        """Whether no trial of the job may start now; if so, the job says why."""
        trouble = self.attempts.backend.trouble()
        found = turn.obstacle() if trouble is None else Obstacle(f"waiting: {trouble}", "")
        if found is None:
            return False
        since = job.created_at if job.started_at is None else self.now()
        self._update(job, reason=found.reason, waiting_since=job.waiting_since or since)
        return True

    def _facts(self, job: JobRow, spec: JobSpec, study: StudyHandle) -> JobFacts:
        opinion = self._opinion(job, spec, study)
        return gather(
            job,
            spec,
            trials=study.trials(),
            rows=self.attempts.stored.of(job.id),
            live=self.attempts.live.of(job.id),
            sampler_stop=opinion.stop,
            expected=opinion.expected,
            now=self.now(),
            retry_wait=self.retry_wait,
        )

    def _opinion(self, job: JobRow, spec: JobSpec, study: StudyHandle) -> _Opinion:
        """The sampler's, asked once per finished trial, and again when the job goes on under other terms."""
        finished = sum(trial.state.is_finished() for trial in study.trials())
        opinion = self._opinions.get(job.id)
        if opinion is None or (opinion.finished, opinion.amendments) != (finished, job.amendments):
            searching = job.stop_reason is None and spec.budget.stop_early
            stop = study.stop_reason() if searching else None
            opinion = _Opinion(finished, job.amendments, stop, study.expected())
            self._opinions[job.id] = opinion
        return opinion

    def _look_again_in_time(self, budget: BudgetSpec, facts: JobFacts) -> None:
        limits = [rest.until for rest in (*facts.resting.values(), facts.evaluation_rests) if rest is not None]
        if (left := until_next_limit(budget, facts.times)) is not None:
            limits.append(self.now() + min(left, _LONGEST_SLEEP))
        if limits:
            self._look_again_at(min(limits))

    def _is_late(self, budget: BudgetSpec) -> bool:
        """Whether the deadline of a job that waits has passed; while it has not, it is looked at again then."""
        if budget.deadline is None or (now := self.now()) >= budget.deadline:
            return budget.deadline is not None
        self._look_again_at(min(budget.deadline, now + _LONGEST_SLEEP))
        return False

    def _look_again_at(self, moment: datetime) -> None:
        self.next_limit = min(moment, self.next_limit or moment)

    def _finish(self, job: JobRow, spec: JobSpec, study: StudyHandle, *, state: JobState, reason: str) -> None:
        """Ends a job and keeps what it has found: the trials of a night are worth something even if its end failed."""
        trials, rows = study.trials(), self.attempts.stored.of(job.id)
        expected = self._opinion(job, spec, study).expected
        found = recommend(trials, validation_examples=validation_examples(rows), expected=expected)
        if found is None:
            self._end_job(job, state, reason)
            return
        write = partial(
            write_result,
            self.files,
            job,
            spec,
            trials=trials,
            rows=rows,
            best=found,
            stop_reason=reason,
            ending=ending_name(job.round, self.lease.term),
        )
        if self.files.store is None:
            best = write()
        else:
            try:
                taken = self.endings.take(job.id, (state, reason, found, job.amendments), write)
            except BucketDown as error:  # what the trials have found is worth waiting for
                self._update(job, reason=f"{error.rule}; tried again every {_STORE_WAIT.seconds} seconds")
                self._look_again_at(self.now() + _STORE_WAIT)
                return
            if taken is None:
                self._look_again_at(self.now() + _WRITING_WAIT)
                return
            best = taken
        views = trial_views(spec, trials, attempts=rows, now=self.now())
        study.show(surface_chart(spec, views, best=best, study=study.study))
        self._end_job(job, state, reason, result=best.model_dump(mode="json"))

    def _wait_for_disk(self, job: JobRow) -> None:
        """Puts the end of a job off whose result had no room: it is paused, or tried again if it is being stopped."""
        what = f"the result cannot be written: {no_space_at(best_folder(self.files.state_dir, job.id))}"
        log.warning("job.disk_full", job=job.id, reason=what)
        if job.state == JobState.STOPPING:
            self._update(job, reason=f"{what}; tried again every {_DISK_WAIT.seconds} seconds")
            self._look_again_at(self.now() + _DISK_WAIT)
        elif job.state == JobState.PAUSED:
            self._update(job, reason=waits_for_disk(job.id, what))
        else:
            self._update(job, state=JobState.PAUSED, reason=waits_for_disk(job.id, what))

    def _end_job(self, job: JobRow, state: JobState, reason: str, **values: object) -> None:
        """Ends a job: first everything that runs, then its state."""
        self.attempts.cancel(job.id, reason=_WHY_ENDED.get(state, "the job has ended"))
        if job.study_id is not None:
            self.attempts.open_study(job.id).end_open_trials()
            self.attempts.tell_events(job.id)
        if job.round and job.result is None:  # reopened by an older version, which kept it in the event alone
            values.setdefault("result", self._earlier_result(job))
        self._update(job, state=state, reason=reason, waiting_since=None, ended_at=self.now(), **values)
        self.studies.forget(job.id)
        self.attempts.stored.forget(job.id)
        self._opinions.pop(job.id, None)
        self.endings.forget(job.id)
        log.info("job.ended", job=job.id, state=state, reason=reason)

    def _earlier_result(self, job: JobRow) -> object:
        """What a reopened job that ends without a result had ended with before: its files are still those."""
        with self.database.read() as session:
            ended = last_of(session, job.id, EventKind.JOB_ENDED)
        return ended.get("best") if ended is not None else None

    def _update(self, job: JobRow, *, state: JobState | None = None, **values: Any) -> None:
        """Changes the stored job and this copy of it; writes nothing that is not new.

        Raises:
            JobMoved: If the stored job is in another state than this copy of it, or under other terms.
        """
        changed = {name: value for name, value in values.items() if getattr(job, name) != value}
        origin, to = JobState(job.state), state or JobState(job.state)
        if not changed and to is origin:
            return
        with self.lease.writing() as session:
            if to is origin:
                is_there = repository.update_job(session, job.id, origin, under=job.amendments, **changed)
            else:
                is_there = repository.move_job(
                    session, job.id, origin, to, now=self.now(), under=job.amendments, **changed
                )
        if not is_there:
            raise JobMoved
        for name, value in (changed | {"state": to}).items():
            setattr(job, name, value)
