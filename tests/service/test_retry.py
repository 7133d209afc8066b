"""Jobs that failed, or trials of which did, and that somebody wants done again."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from byhand import attempts, points, put, reason_of, run_to_end, server, state_of, trials
from flaky import flaky
from optuna.trial import TrialState
from serving import serving
from waiting import wait_for

from fixnorm_core.spec import JobSpec
from fixnorm_core.tuning.attributes import RETRIES
from service.client import Client, ProblemError
from service.composition import Service, build
from service.database.rows import AttemptKind, AttemptState
from service.jobs import repository
from service.jobs.reopening import CUT_OFF, retry
from service.jobs.verbs import STOP, ask
from service.problems import NotFound, VerbImpossible
from service.schemas import JobState
from service.settings import Settings
from worker.contracts import EvaluateTask, FailureKind

pytestmark = pytest.mark.both_databases


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    budget = {"max_trials": 5, "confirm_runs": 1, "parallel_trials": 1, "stop_early": False, "max_failures": 2}
    return JobSpec.model_validate(job | {"budget": budget, "search": job["search"] | {"sampler": "random"}})


def again(service: Service, job_id: str) -> None:
    """Asks as the endpoint does, without the word to the dispatcher of this server."""
    runtime = service.runtime
    retry(job_id, database=runtime.database, trials=runtime.trials, now=runtime.now())


def go_on(service: Service, job_id: str) -> JobState:
    service.dispatcher.wake()
    return run_to_end(service, job_id)


def retried(service: Service, job_id: str) -> dict[int, int]:
    """Which trial is another try at which."""
    return {trial.number: trial.user_attrs[RETRIES] for trial in trials(service, job_id) if RETRIES in trial.user_attrs}


@pytest.mark.parametrize("kind", [FailureKind.CRASHED, FailureKind.FATAL, FailureKind.GPU_MEMORY])
def test_a_failed_job_goes_on_with_new_trials_at_the_failed_points(
    settings: Settings, spec: JobSpec, kind: FailureKind
) -> None:
    backend = flaky(2 if kind is not FailureKind.FATAL else 1, kind)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.FAILED
        failed = [trial.number for trial in trials(service, job_id)]
        again(service, job_id)
        assert (state_of(service, job_id), reason_of(service, job_id)) == (
            JobState.RUNNING,
            "what failed is tried again by request",
        )
        assert go_on(service, job_id) is JobState.SUCCEEDED
        found = trials(service, job_id)
        assert sorted(retried(service, job_id).values()) == failed
        for number, origin in retried(service, job_id).items():
            assert found[number].params == found[origin].params
            assert found[number].state is TrialState.COMPLETE
            assert found[origin].state is TrialState.FAIL  # kept as such
        assert [trial.state for trial in found].count(TrialState.COMPLETE) == spec.budget.max_trials


def test_a_trial_that_was_ended_for_anothers_fault_is_tried_again_with_it(settings: Settings, spec: JobSpec) -> None:
    budget = spec.budget.model_copy(update={"parallel_trials": 2, "confirm_runs": 0})
    spec = spec.model_copy(update={"budget": budget})
    slow = settings.model_copy(update={"epoch_seconds": 0.05})
    with server(slow, backend=flaky(1, FailureKind.FATAL)) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.FAILED
        assert [row.reason for row in attempts(service, job_id) if row.state == AttemptState.CANCELLED] == [CUT_OFF]
        again(service, job_id)
        assert go_on(service, job_id) is JobState.SUCCEEDED
        assert retried(service, job_id) == {2: 0, 3: 1}
        found = trials(service, job_id)
        assert [found[number].params for number in (2, 3)] == [found[number].params for number in (0, 1)]


def test_what_fails_in_every_round_is_tried_once_a_round(settings: Settings, spec: JobSpec) -> None:
    backend = flaky(4, FailureKind.CRASHED)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.FAILED
        again(service, job_id)
        assert go_on(service, job_id) is JobState.FAILED
        assert "2 trials in a row failed" in reason_of(service, job_id)
        assert retried(service, job_id) == {2: 0, 3: 1}
        again(service, job_id)
        assert go_on(service, job_id) is JobState.SUCCEEDED
        assert retried(service, job_id) == {2: 0, 3: 1, 4: 2, 5: 3}


@pytest.mark.parametrize(("losses", "kind"), [(1, FailureKind.FATAL), (3, FailureKind.RETRYABLE)])
def test_an_evaluation_that_failed_is_made_again_and_nothing_else(
    settings: Settings, spec: JobSpec, losses: int, kind: FailureKind
) -> None:
    with server(settings, backend=flaky(losses, kind, of=EvaluateTask)) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.FAILED
        before = points(service, job_id)
        again(service, job_id)
        assert go_on(service, job_id) is JobState.SUCCEEDED
        assert points(service, job_id) == before
        with service.runtime.database.read() as session:
            job = repository.find_job(session, job_id)
        assert job is not None
        assert job.result is not None
        assert job.result["test"] is not None
        made = [row for row in attempts(service, job_id) if row.kind == AttemptKind.EVALUATE]
        assert [row.round for row in made] == [0] * losses + [1]


def test_failed_confirming_runs_are_made_again_within_the_budget(settings: Settings, spec: JobSpec) -> None:
    backend = flaky(0, FailureKind.CRASHED)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        while len(trials(service, job_id)) < 4:
            service.dispatcher.tick()
        backend.losses = 2
        assert run_to_end(service, job_id) is JobState.FAILED
        assert len(trials(service, job_id)) == 6
        again(service, job_id)
        assert go_on(service, job_id) is JobState.SUCCEEDED
        states = [trial.state for trial in trials(service, job_id)]
        assert states == [TrialState.COMPLETE] * 4 + [TrialState.FAIL] * 2 + [TrialState.COMPLETE]


@pytest.mark.parametrize("ticks", [0, 1, 2, 4])
def test_a_wish_to_retry_outlives_a_crash_and_asked_twice_it_is_one(
    settings: Settings, spec: JobSpec, ticks: int
) -> None:
    with server(settings, backend=flaky(2, FailureKind.CRASHED)) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.FAILED
        again(service, job_id)
        again(service, job_id)
        service.dispatcher.wake()
        for _ in range(ticks):
            service.dispatcher.tick()
    with server(settings) as service:
        service.dispatcher.recover()
        again(service, job_id)
        assert go_on(service, job_id) is JobState.SUCCEEDED
        assert retried(service, job_id) == {2: 0, 3: 1}
        assert len(trials(service, job_id)) == 2 + spec.budget.max_trials


def test_a_job_that_runs_tries_a_failed_trial_again_when_asked(settings: Settings, spec: JobSpec) -> None:
    with server(settings, backend=flaky(1, FailureKind.CRASHED)) as service:
        job_id = put(service, spec)
        while len(trials(service, job_id)) < 2:
            service.dispatcher.tick()
        again(service, job_id)
        assert go_on(service, job_id) is JobState.SUCCEEDED
        assert retried(service, job_id) == {2: 0}
        assert len(trials(service, job_id)) == 1 + spec.budget.max_trials


def test_what_has_nothing_to_retry_says_what_to_do_instead(settings: Settings, spec: JobSpec) -> None:
    with server(settings, backend=flaky(1, FailureKind.CRASHED)) as service:
        one_failed = put(service, spec)
        assert run_to_end(service, one_failed) is JobState.SUCCEEDED
        with pytest.raises(VerbImpossible, match="others were trained in place of the trials that failed") as raised:
            again(service, one_failed)
        assert f"fixnorm-tune extend {one_failed} --trials 1" in raised.value.way_out
        none_failed = put(service, spec)
        assert run_to_end(service, none_failed) is JobState.SUCCEEDED
        with pytest.raises(VerbImpossible, match="has no failed trial"):
            again(service, none_failed)
        stopping = put(service, spec)
        ask(STOP, stopping, database=service.runtime.database, now=service.runtime.now())
        with pytest.raises(VerbImpossible, match="it cannot be retried"):
            again(service, stopping)
        with pytest.raises(NotFound):
            again(service, "job-nope")


def test_a_failed_job_is_retried_by_request_and_by_a_button(settings: Settings, spec: JobSpec) -> None:
    service = build(settings, backend=flaky(4, FailureKind.CRASHED))
    with serving(service.app) as url, Client(url) as client, httpx.Client(base_url=url, timeout=30) as http:
        job_id = client.submit(spec).id
        assert wait_for(http, job_id).state is JobState.FAILED
        assert client.retry(job_id).reason == "what failed is tried again by request"
        assert wait_for(http, job_id).state is JobState.FAILED
        assert f'action="/jobs/{job_id}/retry"' in http.get(f"/jobs/{job_id}").text
        assert http.post(f"/jobs/{job_id}/retry").status_code == 303
        assert wait_for(http, job_id).state is JobState.SUCCEEDED
        with pytest.raises(ProblemError, match="has no failed trial that was not tried again"):
            client.retry(job_id)
