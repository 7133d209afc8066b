"""Pausing, resuming and stopping jobs: over HTTP, over crashes, and on one server of several."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from byhand import attempts, points, put, reason_of, run_to_end, server, state_of, trials
from optuna.trial import TrialState
from serving import serving
from streaming import read_events
from waiting import wait_for

from fixnorm_core.spec import JobSpec
from service.client import Client
from service.composition import Service, build
from service.dispatch.attempts import Attempts
from service.jobs import repository
from service.jobs.verbs import PAUSE, RESUME, STOP, Verb, ask
from service.problems import VerbImpossible
from service.schemas import TERMINAL_STATES, JobState, JobView
from service.settings import Settings

JOBS = "/api/v1/jobs"

pytestmark = pytest.mark.both_databases


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    budget = {"max_trials": 5, "confirm_runs": 1, "parallel_trials": 2, "stop_early": False}
    return JobSpec.model_validate(job | {"budget": budget})


@pytest.fixture
def long(job: dict[str, Any]) -> JobSpec:
    """A job that does not end by itself while a test looks at it."""
    budget = {"max_trials": 500, "confirm_runs": 2, "parallel_trials": 2, "stop_early": False}
    search = job["search"] | {"sampler": "random"}
    return JobSpec.model_validate(job | {"budget": budget, "search": search})


def until(client: Client, job_id: str, holds: Callable[[JobView], bool]) -> JobView:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if holds(view := client.job(job_id)):
            return view
        time.sleep(0.01)
    raise AssertionError(f"it never came to that: {view}")


def asked(service: Service, verb: Verb, job_id: str) -> None:
    """Asks as the endpoint does, without the word to the dispatcher of this server."""
    ask(verb, job_id, database=service.runtime.database, now=service.runtime.now())


def tick(service: Service, times: int) -> None:
    for _ in range(times):
        service.dispatcher.tick()


def end(service: Service, job_id: str) -> JobState:
    for _ in range(2000):
        service.dispatcher.tick()
        if (state := state_of(service, job_id)) in TERMINAL_STATES:
            return state
    raise AssertionError("the job did not end")


def just_before_training(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Has something happen between the decision to train a trial and its start."""
    train = Attempts.train

    def after_that(*arguments: Any, **options: Any) -> None:
        act()
        train(*arguments, **options)

    monkeypatch.setattr(Attempts, "train", after_that)


def count(service: Service, job_id: str, state: TrialState) -> int:
    return [trial.state for trial in trials(service, job_id)].count(state)


def test_a_paused_job_takes_in_what_runs_starts_nothing_and_goes_on_when_resumed(
    settings: Settings, spec: JobSpec
) -> None:
    with server(settings) as service:
        undisturbed = put(service, spec)
        assert run_to_end(service, undisturbed) is JobState.SUCCEEDED
        job_id = put(service, spec)
        tick(service, 3)
        asked(service, PAUSE, job_id)
        service.dispatcher.wake()
        tick(service, 200)
        assert state_of(service, job_id) is JobState.PAUSED
        assert [trial.state for trial in trials(service, job_id)] == [TrialState.COMPLETE] * 2
        asked(service, RESUME, job_id)
        assert state_of(service, job_id) is JobState.RUNNING
        service.dispatcher.wake()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert count(service, job_id, TrialState.COMPLETE) == spec.budget.max_trials


@pytest.mark.parametrize("pause_at", [1, 9, 33, 41])
def test_a_pause_changes_no_suggestion_and_no_budget_wherever_it_falls(
    settings: Settings, spec: JobSpec, pause_at: int
) -> None:
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"parallel_trials": 1})})
    with server(settings) as service:
        undisturbed = put(service, spec)
        run_to_end(service, undisturbed)
        job_id = put(service, spec)
        tick(service, pause_at)
        asked(service, PAUSE, job_id)
        service.dispatcher.wake()
        tick(service, 60)
        assert state_of(service, job_id) is JobState.PAUSED
        assert count(service, job_id, TrialState.RUNNING) == 0
        asked(service, RESUME, job_id)
        service.dispatcher.wake()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert points(service, job_id) == points(service, undisturbed)


def test_a_job_that_is_paused_in_the_queue_starts_nothing_and_goes_back_to_it(
    settings: Settings, spec: JobSpec
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        asked(service, PAUSE, job_id)
        tick(service, 5)
        assert (state_of(service, job_id), trials(service, job_id)) == (JobState.PAUSED, [])
        asked(service, RESUME, job_id)
        assert state_of(service, job_id) is JobState.QUEUED
        service.dispatcher.wake()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED


@pytest.mark.parametrize(("verb", "state"), [(PAUSE, JobState.PAUSED), (STOP, JobState.CANCELLED)])
def test_a_job_that_waits_for_room_is_paused_or_stopped_all_the_same(
    settings: Settings, long: JobSpec, verb: Verb, state: JobState
) -> None:
    with server(settings.model_copy(update={"cpus": 1.0})) as service:
        put(service, long)
        waiting = put(service, long)
        tick(service, 2)
        assert "waiting for room" in reason_of(service, waiting)
        asked(service, verb, waiting)
        service.dispatcher.wake()
        tick(service, 2)
        assert state_of(service, waiting) is state
        assert "by request" in reason_of(service, waiting)


def test_a_pause_that_comes_while_a_trial_is_being_started_starts_it_not(
    settings: Settings, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        just_before_training(monkeypatch, lambda: asked(service, PAUSE, job_id))
        tick(service, 5)
        assert attempts(service, job_id) == []
        monkeypatch.undo()
        asked(service, RESUME, job_id)
        service.dispatcher.wake()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert [trial.state for trial in trials(service, job_id)] == [TrialState.COMPLETE] * spec.budget.max_trials


def test_a_stop_that_comes_while_a_trial_is_being_started_ends_it_untrained(
    settings: Settings, long: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(settings) as service:
        job_id = put(service, long)

        def stop_the_fourth() -> None:
            if len(trials(service, job_id)) == 4:
                asked(service, STOP, job_id)

        just_before_training(monkeypatch, stop_the_fourth)
        assert end(service, job_id) is JobState.SUCCEEDED
        states = [trial.state for trial in trials(service, job_id)]
        assert states == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]
        assert {row.trial_number for row in attempts(service, job_id)} == {0, 1, 2}


@pytest.mark.parametrize(("verb", "state"), [(PAUSE, JobState.PAUSED), (STOP, JobState.STOPPING)])
def test_a_wish_outlives_a_crash_between_request_and_effect(
    settings: Settings, spec: JobSpec, verb: Verb, state: JobState
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        while count(service, job_id, TrialState.COMPLETE) < 1:
            tick(service, 1)
        tick(service, 2)
        asked(service, verb, job_id)  # and gone, before the dispatcher has seen it
        interrupted = count(service, job_id, TrialState.RUNNING)
        assert interrupted > 0
        begun = len(trials(service, job_id))
    with server(settings) as service:
        service.dispatcher.recover()
        assert state_of(service, job_id) is state
        if verb is PAUSE:
            tick(service, 50)
            assert state_of(service, job_id) is JobState.PAUSED
            assert count(service, job_id, TrialState.RUNNING) == interrupted  # they wait as well
            asked(service, RESUME, job_id)
            service.dispatcher.wake()
        assert end(service, job_id) is JobState.SUCCEEDED
        assert {trial.state for trial in trials(service, job_id)} == {TrialState.COMPLETE}
        expected = spec.budget.max_trials if verb is PAUSE else begun
        assert len(trials(service, job_id)) == expected
        assert ("stopped by request" in reason_of(service, job_id)) is (verb is STOP)


def test_a_job_is_paused_and_resumed_by_request(settings: Settings, long: JobSpec) -> None:
    service = build(settings)
    with serving(service.app) as url, Client(url) as client:
        job_id = client.submit(long).id
        until(client, job_id, lambda view: view.progress.finished >= 2)
        paused = client.pause(job_id)
        assert (paused.state, paused.reason) == (JobState.PAUSED, PAUSE.reason)
        quiet = until(client, job_id, lambda view: view.progress.running == 0)
        time.sleep(0.2)
        again = client.pause(job_id)
        assert (again.state, again.reason, again.progress) == (JobState.PAUSED, PAUSE.reason, quiet.progress)
        assert client.resume(job_id).state is JobState.RUNNING
        assert client.resume(job_id).state is JobState.RUNNING
        until(client, job_id, lambda view: view.progress.finished > quiet.progress.finished)
        client.cancel(job_id)
        with httpx.Client(base_url=url, timeout=30) as http:
            told = [(event.state, event.reason) for event in read_events(http, job_id)]
        assert told.index((JobState.PAUSED, PAUSE.reason)) < told.index((JobState.RUNNING, RESUME.reason))
        assert told.count((JobState.PAUSED, PAUSE.reason)) == told.count((JobState.RUNNING, RESUME.reason)) == 1


def test_a_stopped_job_succeeds_with_what_there_is(http: httpx.Client, long: JobSpec) -> None:
    with Client(str(http.base_url)) as client:
        job_id = client.submit(long).id
        until(client, job_id, lambda view: view.progress.finished >= 2)
        stopping = client.stop(job_id)
        assert stopping.state in (JobState.STOPPING, JobState.SUCCEEDED)
        view = wait_for(http, job_id)
        assert view.state is JobState.SUCCEEDED, view.reason
        assert view.reason == "stopped by request; 2 of 2 confirming runs left out"
        assert view.stop_reason == "stopped by request"
        assert view.best is not None
        assert view.best.test is not None
        assert (view.best.confirmed, view.best.stop_reason) == (False, view.reason)
        found = [trial for trial in client.trials(job_id) if trial.attempts]  # less one that was only asked for
        assert {trial.state for trial in found} <= {"COMPLETE", "DIVERGED"}
        assert {trial.kind for trial in found} == {"search"}
        assert len(found) <= stopping.progress.finished + stopping.progress.running
        assert client.stop(job_id) == view


@pytest.mark.parametrize("ticks", [0, 1, 5])
def test_a_job_that_is_stopped_before_anything_was_complete_ends_with_what_runs(
    settings: Settings, spec: JobSpec, ticks: int
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        tick(service, ticks)
        begun = len(trials(service, job_id))
        asked(service, STOP, job_id)
        service.dispatcher.wake()
        state = end(service, job_id)
        assert state is (JobState.SUCCEEDED if begun else JobState.CANCELLED)
        assert len(trials(service, job_id)) == begun
        if not begun:
            assert reason_of(service, job_id) == "stopped by request before a trial was complete"


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "stop"])
def test_a_verb_that_has_no_meaning_for_an_ended_job_is_refused_with_a_way_out(
    http: httpx.Client, spec: JobSpec, verb: str
) -> None:
    job_id = http.post(JOBS, json=spec.model_dump(mode="json")).json()["id"]
    before = wait_for(http, job_id)
    answer = http.post(f"{JOBS}/{job_id}/{verb}")
    if verb in ("cancel", "stop"):  # what it asks for is so
        assert JobView.model_validate(answer.json()) == before
    else:
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (409, "verb_impossible")
        assert problem["detail"] == f"{job_id} is SUCCEEDED, and a job that has ended cannot be {verb.rstrip('e')}ed"
        assert f"fixnorm-tune extend {job_id}" in problem["way_out"]
    assert JobView.model_validate(http.get(f"{JOBS}/{job_id}").json()) == before
    assert http.post(f"{JOBS}/job-nope/{verb}").status_code == 404


def test_a_job_that_is_stopping_or_being_cancelled_cannot_be_paused(settings: Settings, spec: JobSpec) -> None:
    with server(settings) as service:
        first, second = put(service, spec), put(service, spec)
        asked(service, STOP, first)
        asked(service, STOP, first)
        for verb in (PAUSE, RESUME):
            with pytest.raises(VerbImpossible, match=f"{first} is STOPPING: it starts no trials any more") as raised:
                asked(service, verb, first)
            assert f"fixnorm-tune cancel {first}" in raised.value.way_out
        with service.runtime.database.write.begin() as session:
            repository.request_cancel(session, second)
        with pytest.raises(VerbImpossible, match="being cancelled, so it cannot be paused"):
            asked(service, PAUSE, second)
        service.dispatcher.wake()
        assert end(service, second) is JobState.CANCELLED


def test_a_paused_or_stopping_job_can_still_be_cancelled(settings: Settings, spec: JobSpec) -> None:
    with server(settings) as service:
        for verb in (PAUSE, STOP):
            job_id = put(service, spec)
            tick(service, 3)
            asked(service, verb, job_id)
            with service.runtime.database.write.begin() as session:
                repository.request_cancel(session, job_id)
            service.dispatcher.wake()
            assert end(service, job_id) is JobState.CANCELLED
            assert reason_of(service, job_id) == "cancelled by request"
