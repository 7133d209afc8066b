"""What a running trial waits for is in its job's reason and beside the trial, as long as it waits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from byhand import put, reason_of, run_to_end, server

from fixnorm_core.spec import JobSpec
from fixnorm_core.waits import StoreWait
from service.composition import Service
from service.jobs.endpoints import list_trials, show_job
from service.schemas import JobState, TrialState
from service.settings import Settings
from worker.contracts import Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

pytestmark = pytest.mark.both_databases

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOTE = "waiting for the store of s3://images/set since 11:59:20 UTC"


class Waiting(SimulatorBackend):
    """Its trials stand still; updates are passed on as they are put in."""

    updates: list[Update]

    def poll(self) -> Sequence[Update]:
        told, self.updates = self.updates, []
        return told if self.epoch_seconds else [*told, *super().poll()]


@pytest.fixture
def backend() -> Waiting:
    backend = Waiting(Recording.packaged())
    backend.updates, backend.epoch_seconds = [], 1.0
    return backend


def look(service: Service, job_id: str) -> tuple[str, dict[int, str]]:
    """The job's reason, and those of its trials, once its news are in."""
    service.dispatcher.tick()
    return reason_of(service, job_id), {each.number: each.reason for each in list_trials(job_id, service.runtime)}


def test_a_wait_is_told_until_it_is_over(settings: Settings, job: dict[str, Any], backend: Waiting) -> None:
    budget = {"max_trials": 2, "parallel_trials": 2, "confirm_runs": 0, "stop_early": False}
    with server(settings, backend=backend, now=lambda: NOON) as service:
        job_id = put(service, JobSpec.model_validate(job | {"budget": budget}))
        assert look(service, job_id) == ("training trials 0 and 1", {0: "", 1: ""})
        hung = Update(f"{job_id}.1.1", waits=StoreWait("s3://images/set", 40.0))
        backend.updates = [hung]
        told = (f"training trials 0 and 1; trial 1 is {NOTE}", {0: "", 1: NOTE})
        assert look(service, job_id) == told
        changes = show_job(job_id, service.runtime)
        backend.updates = [hung]
        assert look(service, job_id) == told
        assert show_job(job_id, service.runtime) == changes
        backend.updates = [Update(f"{job_id}.1.1")]
        assert look(service, job_id) == ("training trials 0 and 1", {0: "", 1: ""})
        backend.updates = [hung]
        assert look(service, job_id) == told
        backend.epoch_seconds = 0.0  # on with them
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert {(each.state, each.reason) for each in list_trials(job_id, service.runtime)} == {
            (TrialState.COMPLETE, "")
        }


def test_an_evaluation_that_waits_says_so(settings: Settings, job: dict[str, Any], backend: Waiting) -> None:
    backend.epoch_seconds = 0.0
    with server(settings, backend=backend, now=lambda: NOON) as service:
        budget = {"max_trials": 1, "confirm_runs": 0}
        job_id = put(service, JobSpec.model_validate(job | {"budget": budget}))
        while reason_of(service, job_id) != "measuring the test accuracy":
            service.dispatcher.tick()
            if reason_of(service, job_id) == "training trial 0":
                continue
            backend.epoch_seconds = 1.0
        (attempt,) = backend.places()
        backend.updates = [Update(attempt, waits=StoreWait("s3://images/set", 40.0))]
        assert look(service, job_id)[0] == f"measuring the test accuracy, {NOTE}"


def test_a_server_that_takes_over_tells_that_the_wait_is_over(
    settings: Settings, job: dict[str, Any], backend: Waiting
) -> None:
    budget = {"max_trials": 1, "confirm_runs": 0}
    backend.close = lambda: None  # type: ignore[method-assign]  # it outlives its server
    with server(settings, backend=backend, now=lambda: NOON) as service:
        job_id = put(service, JobSpec.model_validate(job | {"budget": budget}))
        look(service, job_id)
        backend.updates = [Update(f"{job_id}.0.1", waits=StoreWait("s3://images/set", 40.0))]
        assert look(service, job_id)[1] == {0: NOTE}
    with server(settings, backend=backend, now=lambda: NOON) as service:
        service.dispatcher.recover()
        assert look(service, job_id)[1] == {0: NOTE}
        backend.updates = [Update(f"{job_id}.0.1")]
        assert look(service, job_id) == ("training trial 0", {0: ""})
