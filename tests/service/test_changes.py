"""What a job gets is changed while it waits or runs, on any server, and counts from the next decision on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest
from byhand import put, server
from waiting import wait_for

from fixnorm_core.spec import JobSpec
from service.composition import Service
from service.events.records import events_after
from service.jobs import repository
from service.jobs.changes import change
from service.schemas import BudgetChange, JobChange, ShareChange
from service.settings import Settings
from worker.contracts import Resources
from worker.recording import Recording
from worker.simulator import SimulatorBackend

JOBS = "/api/v1/jobs"


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    budget = {"max_trials": 60, "confirm_runs": 1, "parallel_trials": 6, "stop_early": False}
    return JobSpec.model_validate(job | {"budget": budget})


def comes_to_hold(service: Service, **held: int) -> bool:
    """Whether the jobs come to hold so many slots, as trials end and others start in their places."""
    for _ in range(100):
        service.dispatcher.tick()
        with service.runtime.database.read() as session:
            if Counter(row.job_id for row in repository.live_attempts(session)) == held:
                return True
    return False


def test_a_changed_weight_cap_or_number_of_trials_counts_from_the_next_trials_on(
    settings: Settings, spec: JobSpec
) -> None:
    backend = SimulatorBackend(Recording.packaged(), total=Resources(cpus=6.0, gpus=0.0))
    with server(settings, backend=backend) as service:
        first, second = put(service, spec), put(service, spec)
        assert comes_to_hold(service, **{first: 3, second: 3})
        database = service.runtime.database
        change(first, JobChange(share=ShareChange(weight=2)), database=database)
        service.dispatcher.wake()
        assert comes_to_hold(service, **{first: 4, second: 2})
        change(first, JobChange(share=ShareChange(max_cpus=1)), database=database)
        change(second, JobChange(budget=BudgetChange(parallel_trials=4)), database=database)
        service.dispatcher.wake()
        assert comes_to_hold(service, **{first: 1, second: 4})
        change(first, JobChange(share=ShareChange(max_cpus=None)), database=database)
        service.dispatcher.wake()
        assert comes_to_hold(service, **{first: 4, second: 2})
        with database.read() as session:
            told = [event.reason for event in events_after(session, first, 0, limit=500) if event.reason]
        assert "share.weight is 2 (was 1), by request" in told
        assert "share.max_cpus is none (was 1), by request" in told


@pytest.mark.both_databases
def test_a_change_is_refused_with_the_field_and_the_rule_and_leaves_the_job_as_it_is(
    http: httpx.Client, job: dict[str, Any]
) -> None:
    spec = job | {"budget": {"max_trials": 500, "confirm_runs": 0, "stop_early": False}}
    job_id = http.post(JOBS, json=spec).json()["id"]
    refused = http.patch(f"{JOBS}/{job_id}", json={"share": {"weight": -1}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "share.weight"
    unknown = http.patch(f"{JOBS}/{job_id}", json={"share": {"wait": 1}})
    assert (unknown.status_code, "did you mean 'weight'?" in unknown.json()["detail"]) == (422, True)
    assert http.patch(f"{JOBS}/{job_id}", json={"seed": 1}).status_code == 422  # a job stays what it is
    small = http.patch(f"{JOBS}/{job_id}", json={"share": {"max_cpus": 0.5, "weight": 2}})
    assert (small.status_code, small.json()["code"]) == (422, "invalid_spec")
    assert "share.max_cpus is 0.5" in small.json()["detail"]
    assert http.get(f"{JOBS}/{job_id}").json()["spec"]["share"]["weight"] == 1
    changed = http.patch(f"{JOBS}/{job_id}", json={"share": {"weight": 2, "priority": 5}})
    assert (changed.status_code, changed.json()["spec"]["share"]["priority"]) == (200, 5)
    http.post(f"{JOBS}/{job_id}/cancel")
    wait_for(http, job_id)
    ended = http.patch(f"{JOBS}/{job_id}", json={"share": {"weight": 3}})
    assert (ended.status_code, ended.json()["code"]) == (409, "verb_impossible")
    assert http.patch(f"{JOBS}/job-nope", json={}).status_code == 404
