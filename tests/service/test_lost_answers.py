"""A write that was made although its answer was lost, and one that failed between two others: done once, and done."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from byhand import attempts, put, run_to_end, server, state_of, trials
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from fixnorm_core.spec import JobSpec
from service.database.rows import AttemptKind, AttemptRow, AttemptState
from service.events.records import record
from service.jobs import repository
from service.jobs.verbs import PAUSE, RESUME, ask
from service.jobs.views import trial_views
from service.schemas import EventKind, JobState
from service.settings import Settings
from service.studies.studies import StudyHandle

pytestmark = pytest.mark.both_databases


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(job | {"budget": {"max_trials": 3, "confirm_runs": 1, "stop_early": False}})


def unreachable(*_: object) -> None:
    raise StorageInternalError("the database is gone")


def test_a_result_that_was_stored_before_the_database_failed_is_told_and_not_trained_again(
    settings: Settings, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        with monkeypatch.context() as patched:
            patched.setattr(StudyHandle, "tell", unreachable)
            with pytest.raises(StorageInternalError):
                run_to_end(service, job_id)
        assert [row.state for row in attempts(service, job_id)] == [AttemptState.COMPLETE]
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        trained = [row for row in attempts(service, job_id) if row.kind == AttemptKind.TRAIN]
        assert [row.trial_number for row in trained] == [0, 1, 2]


def test_an_attempt_that_was_stored_in_a_commit_whose_answer_was_lost_is_lost_and_its_trial_is_not(
    settings: Settings, spec: JobSpec
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        service.dispatcher.recover()
        row = AttemptRow(id=f"{job_id}.0.1", job_id=job_id, kind=AttemptKind.TRAIN, trial_number=0)
        row.lease, row.created_at = service.dispatcher.lease.token, service.runtime.now()
        with service.runtime.database.write.begin() as session:
            session.add(row)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        first, second, *_ = attempts(service, job_id)
        assert (first.state, first.reason) == (AttemptState.LOST, "it was not started")
        assert (second.trial_number, second.state) == (0, AttemptState.COMPLETE)


@pytest.mark.parametrize("is_made", [True, False], ids=["made", "not made"])
@pytest.mark.parametrize("what", ["pruned", "overdue"])
def test_an_end_that_was_decided_here_is_told_though_its_commit_failed(
    settings: Settings, spec: JobSpec, monkeypatch: pytest.MonkeyPatch, what: str, is_made: bool
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        service.dispatcher.tick()
        taker, study = service.dispatcher._attempts, service.dispatcher.studies.find(job_id)
        assert study is not None
        end_attempt, commit, ended = repository.end_attempt, DefaultDialect.do_commit, []

        def end(*args: Any, **options: Any) -> bool:
            ended.append(args)
            return end_attempt(*args, **options)

        def fail(dialect: DefaultDialect, connection: Any) -> None:
            if is_made or not ended:
                commit(dialect, connection)
            if ended:
                driver: Any = dialect.loaded_dbapi
                raise driver.OperationalError("the connection is gone")

        with service.runtime.database.read() as session:
            job = repository.find_job(session, job_id)
        assert job is not None
        decide = {
            "pruned": lambda: taker.prune(job, number, reason="it loses"),
            "overdue": lambda: taker.fail(list(taker.live), reason="it took too long"),
        }
        number = study.ask().number if what == "pruned" else next(iter(taker.live.values())).trial_number
        with monkeypatch.context() as patched:
            patched.setattr(repository, "end_attempt", end)
            patched.setattr(DefaultDialect, "do_commit", fail)
            with pytest.raises(OperationalError):
                decide[what]()
        service.dispatcher.tick()
        assert [attempt for attempt in taker.live.values() if attempt.trial_number == number] == []
        state = {"pruned": TrialState.PRUNED, "overdue": TrialState.FAIL}[what]
        assert study.trials()[number].state is state
        (row,) = [row for row in attempts(service, job_id) if row.trial_number == number]
        assert row.state == {"pruned": AttemptState.PRUNED, "overdue": AttemptState.FAILED}[what]
        assert run_to_end(service, job_id) is JobState.SUCCEEDED


def test_it_is_lost_at_once_though_its_job_starts_nothing_more(
    settings: Settings, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, started = DefaultDialect.do_commit, []

    def note(session: Session, job_id: str, kind: EventKind, told: Any) -> None:
        started.append(kind)
        record(session, job_id, kind, told)

    def commit_unanswered(dialect: DefaultDialect, connection: Any) -> None:
        commit(dialect, connection)
        if started:
            driver: Any = dialect.loaded_dbapi
            raise driver.OperationalError("the connection is gone")

    with server(settings) as service:
        job_id = put(service, spec)
        with monkeypatch.context() as patched:
            patched.setattr("service.dispatch.attempts.record", note)
            patched.setattr(DefaultDialect, "do_commit", commit_unanswered)
            with pytest.raises(OperationalError):
                service.dispatcher.tick()
        assert [row.state for row in attempts(service, job_id)] == [AttemptState.STARTING]
        ask(PAUSE, job_id, database=service.runtime.database, now=service.runtime.now())
        service.dispatcher.tick()
        (row,) = attempts(service, job_id)
        assert (row.state, row.reason) == (AttemptState.LOST, "it was not started")
        ask(RESUME, job_id, database=service.runtime.database, now=service.runtime.now())
        service.dispatcher.wake()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED


def test_a_database_that_fails_while_a_point_is_asked_for_fails_neither_job_nor_trial(
    settings: Settings, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        with monkeypatch.context() as patched:
            patched.setattr(StudyHandle, "complete", unreachable)
            with pytest.raises(StorageInternalError):
                service.dispatcher.tick()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert [trial.state for trial in trials(service, job_id)] == [TrialState.COMPLETE] * 3


def test_a_trial_that_another_server_created_over_the_budget_is_never_trained_nor_charged(
    settings: Settings, spec: JobSpec
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        service.dispatcher.tick()
        study = service.dispatcher.studies.find(job_id)
        assert study is not None
        surplus = [study.ask().number for _ in range(2)]  # by one that was suspended between its check and its write
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        states = [trial.state for trial in trials(service, job_id)]
        assert states.count(TrialState.COMPLETE) == spec.budget.max_trials
        assert states[surplus[-1]] is TrialState.FAIL
        rows = attempts(service, job_id)
        assert surplus[-1] not in {row.trial_number for row in rows}
        view = trial_views(spec, trials(service, job_id), attempts=rows, now=datetime.now(UTC))[surplus[-1]]
        assert (view.state, view.reason) == ("CANCELLED", "it was never trained")
        assert state_of(service, job_id) is JobState.SUCCEEDED
