"""Attempts: started on the backend, and their news taken in exactly once.

Order matters. An attempt's result is committed to our table first, guarded by the attempt's state, and told to Optuna
second. A crash in between leaves a COMPLETE attempt whose trial is still RUNNING, which :meth:`Attempts.settle`
finishes; a late or repeated result finds its attempt ended, or another server's, and changes nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import assert_never

import structlog
from sqlalchemy.orm import Session

from fixnorm_core.artifacts import Artifacts
from fixnorm_core.reach import Reach
from fixnorm_core.reports import EpochReport, Evaluation, TrialResult
from fixnorm_core.spec import JobSpec, TrialSpec
from service.database.engine import Database
from service.database.rows import LIVE_ATTEMPT_STATES, AttemptKind, AttemptRow, AttemptState, JobRow
from service.dispatch.disk import waits_for_disk
from service.dispatch.lease import Lease
from service.dispatch.ledger import Ledger
from service.dispatch.live import End, Live, LiveAttempt
from service.dispatch.nodes import Nodes
from service.dispatch.results import record_trials, tell_result, why_refused
from service.dispatch.waits import StoreWaits
from service.events.records import last_heard, record, record_epochs
from service.jobs import repository
from service.jobs.files import JobFiles
from service.jobs.folders import trial_folder
from service.jobs.last_words import add_last_words
from service.metrics.meters import Meters
from service.schemas import EventKind, JobState
from service.studies.studies import AskedTrial, StudyHandle
from worker.contracts import (
    NOTHING,
    Backend,
    Cancelled,
    Evaluated,
    EvaluateTask,
    Failed,
    FailureKind,
    Resources,
    Stopped,
    Task,
    Trained,
    TrainTask,
    Update,
)

__all__ = ["MAX_RETRYABLE_FAILURES", "Attempts", "JobMoved"]

MAX_RETRYABLE_FAILURES = 3
"""A trial whose worker was lost this often fails; a lost node, a full disk and a restarted server do not count."""

_LASTING_FAILURES = (FailureKind.CRASHED, FailureKind.OVERDUE, FailureKind.FATAL)

log = structlog.get_logger(__name__)


class JobMoved(Exception):
    """A job is in another state than when it was read, or under other terms; it must be looked at again."""


@dataclass(slots=True)
class Attempts:
    """The attempts of all jobs. Used by the dispatcher's thread alone."""

    database: Database
    lease: Lease
    backend: Backend
    files: JobFiles
    now: Callable[[], datetime]
    meters: Meters
    open_study: Callable[[str], StudyHandle]
    nodes: Nodes
    reach: Reach
    live: Live = field(default_factory=Live, init=False)
    stored: Ledger = field(init=False)
    _inbox: list[Update] = field(default_factory=list, init=False)
    _announced: set[str] = field(default_factory=set, init=False)
    _stopping: set[str] = field(default_factory=set, init=False)
    _unanswered: set[str] = field(default_factory=set, init=False)
    _decided: dict[str, End] = field(default_factory=dict, init=False)
    _waits: StoreWaits = field(default_factory=StoreWaits, init=False)

    def __post_init__(self) -> None:
        self.stored = Ledger(self.database, self.lease)

    def train(self, job: JobRow, spec: JobSpec, asked: AskedTrial, *, nodes: Sequence[str]) -> None:
        """Starts an attempt at a trial of a job, on one of ``nodes``, the best first.

        Raises:
            JobMoved: If it is in another state by now, or under other terms: it was paused, say, or extended.
        """
        attempt = self._open(job, AttemptKind.TRAIN, asked.number, Resources.of(spec.resources), params=asked.params)
        self._start(TrainTask(attempt.id, *self._what(attempt, spec, asked)), attempt, nodes)

    def evaluate(self, job: JobRow, spec: JobSpec, asked: AskedTrial, *, nodes: Sequence[str]) -> None:
        """Starts the evaluation of a trial's weights on the test split, as :meth:`train` starts a trial.

        Raises:
            JobMoved: As there.
        """
        attempt = self._open(job, AttemptKind.EVALUATE, asked.number, Resources.of(spec.resources), params=asked.params)
        self._start(EvaluateTask(attempt.id, *self._what(attempt, spec, asked)), attempt, nodes)

    def prune(self, job: JobRow, number: int, *, reason: str) -> None:
        """Ends a trial that no attempt is training, because its pruner had stopped it, or would now.

        Raises:
            JobMoved: As :meth:`train`.
        """
        attempt = self._open(job, AttemptKind.TRAIN, number, NOTHING, params=None)
        self._carry_out(End(attempt, AttemptState.PRUNED, reason))

    def take_in(self) -> Collection[str] | None:
        """Applies all news from the backend; returns the jobs that it is of, and None if there was none.

        There may be news that is of none: that an attempt that was cancelled is gone. News is forgotten only when it
        has been applied: after an error (a lost database, say) the next call goes on where this one stopped.
        """
        touched = {end.attempt.job_id for end in self._decided.values()} | self._unanswered
        for end in tuple(self._decided.values()):
            self._carry_out(end)
        for job_id in tuple(self._unanswered):  # its turn may be far away, and it may end before
            rows = self.stored.of(job_id)
            with self.stored.writing(job_id) as session:
                self._end_unstarted(session, rows)
            self._unanswered.discard(job_id)
        self._inbox.extend(self.backend.poll())
        any_news = bool(touched or self._inbox)
        while self._inbox:
            update = self._inbox[0]
            attempt = self.live.get(update.attempt_id)
            self._apply(update)
            del self._inbox[0]
            self.backend.acknowledge(update)
            if attempt is not None:
                touched.add(attempt.job_id)
                self.nodes.note(attempt, update)
        return touched if any_news else None

    def cancel(self, job_id: str, *, reason: str, trials: Collection[int] | None = None) -> None:
        """Ends live attempts of a job now: all, or those that train one of ``trials``."""
        self.lease.check()  # what runs may be another server's by now
        for attempt in self.live.of(job_id):
            if trials is None or (attempt.kind is AttemptKind.TRAIN and attempt.trial_number in trials):
                self.backend.cancel(attempt.id)
                self._carry_out(End(attempt, AttemptState.CANCELLED, reason))

    def fail(self, attempt_ids: Collection[str], *, reason: str) -> None:
        """Ends live attempts now that have run for too long; what they hold is freed with their processes."""
        for attempt_id in attempt_ids:
            self.backend.cancel(attempt_id)
            self._carry_out(End(self.live[attempt_id], AttemptState.FAILED, reason, FailureKind.OVERDUE))

    def abandon(self) -> None:
        """Lets go of everything without a word to the database: another server has adopted it, or given it up."""
        self.backend.release()
        self.live.clear()
        self.stored.forget_all()
        self.meters.hold(self.live.held())
        self._inbox.clear()
        self._announced.clear()
        self._stopping.clear()
        self._unanswered.clear()
        self._decided.clear()
        self._waits.forget_all()

    def settle(self, job_id: str, found: Mapping[str, Resources], *, reason: str) -> None:
        """After a restart: what the backend has found is adopted, what else was live is lost.

        Results that Optuna has not been told yet are told.
        """
        token = self.lease.token
        self.stored.forget(job_id)
        with self.lease.writing() as session:
            live = [row for row in repository.live_attempts(session) if row.job_id == job_id]
            adopted = [row for row in live if row.id in found]
            lost = [row for row in live if row.id not in found]
            for row in adopted:
                repository.adopt_attempt(session, row.id, lease=row.lease, to=token)
            now, heard = self.now(), last_heard(session, job_id)  # after that no server may have been there
            for row in lost:
                end = min(now, max(row.created_at, heard or now))
                repository.end_attempt(session, row.id, AttemptState.LOST, lease=row.lease, now=end, reason=reason)
            if lost:
                repository.give_turn_back(session, job_id)
        self._waits.adopt(adopted)
        for row in adopted:
            attempt = LiveAttempt(row.id, token, job_id, AttemptKind(row.kind), row.trial_number, found[row.id])
            self.live[row.id] = attempt
            attempt.log.info("attempt.adopted")
        self.meters.hold(self.live.held())
        for row in lost:
            self.meters.ended(row.kind, AttemptState.LOST)
            self._add_last_words(job_id, row.trial_number, row.id, AttemptState.LOST, reason)
        for row in self.stored.of(job_id):
            if row.kind == AttemptKind.TRAIN:
                tell_result(self.open_study(job_id), row)
        self.tell_events(job_id, epochs=True)

    def end_unknown(self, found: Collection[str]) -> None:
        """Ends what the backend has found and no live attempt is known of."""
        for attempt_id in found:
            if attempt_id not in self.live:
                log.info("attempt.unknown", attempt=attempt_id)
                self.backend.cancel(attempt_id)

    def tell_events(self, job_id: str, number: int | None = None, *, epochs: bool = False) -> None:
        """Records the events of what Optuna has been told of a trial, or of all: ends, and ``epochs`` after a crash.

        Epochs of a trial that goes on are left to whoever trains it: they are reported again, with all their measures.
        """
        study = self.open_study(job_id)
        trials = study.trials() if number is None else [study.trials()[number]]
        rows = self.stored.of(job_id)
        with self.lease.writing() as session:
            record_trials(session, job_id, study, trials, attempts=rows, epochs=epochs, now=self.now())

    def _what(
        self, attempt: LiveAttempt, spec: JobSpec, asked: AskedTrial
    ) -> tuple[TrialSpec, str, Reach, Artifacts | None]:
        place = (attempt.job_id, asked.number)
        folder, artifacts = trial_folder(self.files.state_dir, *place), self.files.artifacts(*place, attempt.id)
        return spec.trial(asked.params, seed=asked.seed), str(folder), self.reach, artifacts

    def _start(self, task: Task, attempt: LiveAttempt, nodes: Sequence[str]) -> None:
        attempt.log.info("attempt.started", params=task.trial.params, seed=task.trial.seed)
        self.meters.started()
        try:
            self.backend.start(task, attempt.resources, nodes)
        except Exception as error:  # the boundary: a backend whose cluster is gone may raise anything
            failure = Failed(FailureKind.OUTAGE, f"it could not be started: {error}", traceback.format_exc())
            self._inbox.append(Update(attempt.id, outcome=failure))

    def _open(
        self, job: JobRow, kind: AttemptKind, number: int, resources: Resources, *, params: Mapping[str, float] | None
    ) -> LiveAttempt:
        lease, job_id = self.lease.token, job.id
        earlier = [row for row in self.stored.of(job_id) if row.trial_number == number]
        with self.stored.writing(job_id) as session:
            round_ = repository.hold_job(session, job_id, JobState(job.state), under=job.amendments)
            if round_ is None:
                raise JobMoved
            if resources != NOTHING:
                repository.serve_job(session, job_id, now=self.now())
            self._end_unstarted(session, [row for row in earlier if row.kind == kind])
            self._unanswered.add(job_id)
            attempt = LiveAttempt(f"{job_id}.{number}.{len(earlier) + 1}", lease, job_id, kind, number, resources)
            row = AttemptRow(id=attempt.id, job_id=job_id, kind=kind, trial_number=number, lease=lease, round=round_)
            row.created_at = self.now()
            session.add(row)
            told = {"trial": number, "attempt": attempt.id, "task": kind, "params": params}
            record(session, job_id, EventKind.ATTEMPT_STARTED, told)
            self.stored.note(session, attempt.id)
        self._unanswered.discard(job_id)
        self.live[attempt.id] = attempt
        self.meters.hold(self.live.held())
        return attempt

    def _end_unstarted(self, session: Session, rows: Sequence[AttemptRow]) -> None:
        """Ends what was stored in a commit whose answer was lost: nothing of it runs."""
        for row in rows:
            if row.state in LIVE_ATTEMPT_STATES and row.id not in self.live:
                why = "it was not started"
                repository.end_attempt(session, row.id, AttemptState.LOST, lease=row.lease, now=self.now(), reason=why)
                self.stored.note(session, row.id)

    def _apply(self, update: Update) -> None:
        attempt = self.live.get(update.attempt_id)
        if attempt is None:
            if not isinstance(update.outcome, Cancelled):  # whoever cancelled it knows
                self._refuse(update.attempt_id)
            return
        epochs = {report.epoch: report for report in update.reports}
        end = partial(self._end, attempt, epochs=epochs, ago=timedelta(seconds=update.ended_seconds_ago))
        if epochs:
            self.open_study(attempt.job_id).report(attempt.trial_number, update.reports)
        match update.outcome:
            case None:
                self._tell_epochs(attempt, epochs)
                self._waits.note(attempt, update.waits, stored=self.stored, now=self.now())
                if epochs and not update.reports[-1].diverged:
                    self._stop_if_losing(attempt)
            case Trained(result):
                end(AttemptState.COMPLETE, result=result)
            case Evaluated(evaluation):
                end(AttemptState.COMPLETE, result=evaluation)
            case Failed(kind, message, details):
                attempt.log.warning("attempt.failed", kind=kind, message=message, details=details)
                end(AttemptState.FAILED, reason=message, failure=kind)
            case Cancelled():
                end(AttemptState.CANCELLED, reason="cancelled")
            case Stopped():
                reason = self.open_study(attempt.job_id).reason_to_prune(attempt.trial_number)
                end(AttemptState.PRUNED, reason=reason or "stopped")
            case _:
                assert_never(update.outcome)

    def _stop_if_losing(self, attempt: LiveAttempt) -> None:
        """Asks the pruner, and has the worker stop. The trial ends when the worker has: it may finish all the same."""
        if attempt.id in self._stopping or attempt.kind is not AttemptKind.TRAIN:
            return
        if (reason := self.open_study(attempt.job_id).reason_to_prune(attempt.trial_number)) is not None:
            attempt.log.info("attempt.stopping", reason=reason)
            self._stopping.add(attempt.id)
            self.backend.stop(attempt.id)

    def _tell_epochs(self, attempt: LiveAttempt, epochs: Mapping[int, EpochReport]) -> None:
        """Records what an attempt has told of its training, with the first epoch that it runs."""
        if not epochs:
            return
        with self.stored.writing(attempt.job_id) as session:
            if attempt.id not in self._announced:
                repository.start_attempt(session, attempt.id, lease=attempt.lease)
                self.stored.note(session, attempt.id)
            record_epochs(session, attempt.job_id, attempt.trial_number, epochs)
        self._announced.add(attempt.id)

    def _carry_out(self, end: End) -> None:
        """Ends an attempt as was decided here. No news tells of it again: what fails is done at the next look."""
        self._decided[end.attempt.id] = end
        self._end(end.attempt, end.state, reason=end.reason, failure=end.failure)
        del self._decided[end.attempt.id]

    def _end(
        self,
        attempt: LiveAttempt,
        state: AttemptState,
        *,
        epochs: Mapping[int, EpochReport] = MappingProxyType({}),
        ago: timedelta = timedelta(0),
        reason: str = "",
        failure: FailureKind | None = None,
        result: TrialResult | Evaluation | None = None,
    ) -> None:
        stored = result.model_dump(mode="json") if result is not None else None
        with self.stored.writing(attempt.job_id) as session:
            record_epochs(session, attempt.job_id, attempt.trial_number, epochs)
            is_mine = repository.end_attempt(
                session,
                attempt.id,
                state,
                lease=attempt.lease,
                now=self.now() - ago,
                reason=reason,
                failure=failure,
                result=stored,
            )
            if is_mine and failure is FailureKind.DISK_FULL:
                why = waits_for_disk(attempt.job_id, reason)
                repository.pause_job(session, attempt.job_id, reason=why, now=self.now())
            row = self.stored.note(session, attempt.id)
        # Stored before, by this server: the commit's answer was lost, or something failed between it and Optuna
        was_mine = row.lease == attempt.lease and row.state == state
        if not is_mine and not was_mine:
            self._refuse(attempt.id)
            return
        if is_mine and state is not AttemptState.COMPLETE:  # else this is tried again, and they are there
            self._add_last_words(attempt.job_id, attempt.trial_number, attempt.id, state, reason)
        if attempt.kind is AttemptKind.TRAIN:
            tell_result(self.open_study(row.job_id), row)
            final = state is AttemptState.CANCELLED or failure in _LASTING_FAILURES
            failures = self.stored.charged_failures(attempt.job_id, attempt.kind, attempt.trial_number)
            if final or failures >= MAX_RETRYABLE_FAILURES:
                self.open_study(attempt.job_id).tell_failed(attempt.trial_number)
            self.tell_events(attempt.job_id, attempt.trial_number, epochs=state is not AttemptState.COMPLETE)
        self._forget(attempt.id)
        self.meters.ended(attempt.kind, state)
        attempt.log.info("attempt.ended", state=state, reason=reason)

    def _add_last_words(self, job_id: str, number: int, attempt_id: str, state: AttemptState, reason: str) -> None:
        add_last_words(self.files.log(job_id, number, attempt_id), state, reason, now=self.now())

    def _refuse(self, attempt_id: str) -> None:
        """Says why news of an attempt changes nothing, and has the backend end it, should it still run."""
        self._forget(attempt_id)
        self.lease.check()  # else it may be another server's
        self.backend.cancel(attempt_id)
        with self.database.read() as session:
            row = repository.find_attempt(session, attempt_id)
        about = log if row is None else log.bind(job=row.job_id, trial=row.trial_number)
        about.warning("attempt.news_refused", attempt=attempt_id, why=why_refused(row))

    def _forget(self, attempt_id: str) -> None:
        self.live.pop(attempt_id, None)
        self.meters.hold(self.live.held())
        self._announced.discard(attempt_id)
        self._stopping.discard(attempt_id)
        self._waits.forget(attempt_id)
