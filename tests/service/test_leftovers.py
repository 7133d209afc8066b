"""A trial that a suspended server creates in Optuna after its job has ended does not stay RUNNING there."""

from __future__ import annotations

import time
from typing import Any

import optuna
import pytest
from byhand import put, run_to_end, server, state_of, trials
from optuna.trial import TrialState

from fixnorm_core.spec import JobSpec
from service.composition import Service
from service.dispatch import dispatcher
from service.schemas import JobState
from service.settings import Settings
from service.studies.storage import close_storage, open_writing_storage


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(job | {"budget": {"max_trials": 2, "confirm_runs": 0, "stop_early": False}})


def create_late(settings: Settings, job_id: str) -> None:
    """As the other server would when it wakes up: one trial that is asked for, one that waits in Optuna's queue."""
    storage = open_writing_storage(settings.url)
    study = optuna.load_study(study_name=job_id, storage=storage)
    study.ask()
    study.enqueue_trial({"lr": 0.01, "fc_norm": 2.0})
    close_storage(storage)


def states(service: Service, job_id: str) -> list[TrialState]:
    return [trial.state for trial in trials(service, job_id)]


ENDED = [TrialState.COMPLETE] * 2 + [TrialState.FAIL] * 2


@pytest.mark.both_databases
def test_the_server_that_takes_over_ends_it_and_leaves_jobs_that_run_alone(settings: Settings, spec: JobSpec) -> None:
    with server(settings) as service:
        longer = spec.model_copy(update={"budget": spec.budget.model_copy(update={"max_trials": 8})})
        ended, running = put(service, spec), put(service, longer)
        assert run_to_end(service, ended) is JobState.SUCCEEDED
        while TrialState.RUNNING not in states(service, running):
            service.dispatcher.tick()
        before = states(service, running)
        create_late(settings, ended)
        assert states(service, ended) == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING, TrialState.WAITING]
    with server(settings) as service:
        service.dispatcher.recover()
        assert states(service, ended) == ENDED
        assert states(service, running) == before
        assert state_of(service, ended) is JobState.SUCCEEDED


def test_so_does_the_one_that_dispatches_in_time(
    settings: Settings, postgres_url: str, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_SWEEP_SECONDS", 0.0)
    shared = settings.model_copy(update={"database_url": postgres_url})
    with server(shared) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        create_late(shared, job_id)
        service.start()
        deadline = time.monotonic() + 60
        while states(service, job_id) != ENDED:
            assert time.monotonic() < deadline
            time.sleep(0.05)
