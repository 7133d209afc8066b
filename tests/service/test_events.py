"""A job's events: in order, each once, whoever dies in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving
from streaming import read_events
from waiting import wait_for

from fixnorm_core.spec import JobSpec
from service.composition import Service, build
from service.dispatch import attempts as attempts_module
from service.dispatch import results as results_module
from service.events.records import events_after
from service.jobs.submit import submit
from service.schemas import EventKind, EventView, JobState, TrialView
from service.settings import Settings

JOBS = "/api/v1/jobs"


def submit_job(http: httpx.Client, job: dict[str, Any]) -> str:
    return str(http.post(JOBS, json=job).raise_for_status().json()["id"])


def told(events: Sequence[EventView], kind: EventKind) -> list[EventView]:
    return [event for event in events if event.kind is kind]


def check_story(events: Sequence[EventView], trials: Sequence[TrialView]) -> None:
    """The events tell everything of the trials, and everything once."""
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    epochs = Counter((event.trial, event.epoch) for event in told(events, EventKind.TRIAL_EPOCH))
    assert epochs == Counter((trial.number, epoch + 1) for trial in trials for epoch in range(len(trial.curve)))
    ends = [(event.trial, event.state, event.validation_accuracy) for event in told(events, EventKind.TRIAL_ENDED)]
    assert sorted(ends) == [(trial.number, trial.state, trial.validation_accuracy) for trial in trials]
    started = Counter(event.attempt for event in told(events, EventKind.ATTEMPT_STARTED))
    assert started == Counter(event.attempt for event in told(events, EventKind.ATTEMPT_ENDED))
    assert set(started.values()) == {1}


def trials_of(http: httpx.Client, job_id: str) -> list[TrialView]:
    return [TrialView.model_validate(trial) for trial in http.get(f"{JOBS}/{job_id}/trials").json()]


@pytest.mark.both_databases
def test_a_stream_tells_a_whole_job_while_it_runs_and_ends_with_it(http: httpx.Client, job: dict[str, Any]) -> None:
    job_id = submit_job(http, job)
    events = list(read_events(http, job_id))
    check_story(events, trials_of(http, job_id))
    assert (events[0].kind, events[0].state) == (EventKind.JOB_CHANGED, JobState.QUEUED)
    assert (events[-1].kind, events[-1].state) == (EventKind.JOB_ENDED, JobState.SUCCEEDED)
    assert len(told(events, EventKind.JOB_ENDED)) == 1
    first = told(events, EventKind.ATTEMPT_STARTED)[0]
    assert (first.trial, first.task, first.params) == (0, "train", trials_of(http, job_id)[0].params)


@pytest.mark.both_databases
def test_a_reader_goes_on_after_the_last_event_it_has_seen(http: httpx.Client, job: dict[str, Any]) -> None:
    job_id = wait_for(http, submit_job(http, job)).id
    events = list(read_events(http, job_id))
    for after in (0, 1, len(events) // 2, len(events) - 1):
        assert list(read_events(http, job_id, after=after)) == events[after:]
    address = f"{JOBS}/{job_id}/events"
    assert http.get(address, params={"after": len(events) - 1}).text.count("event: ") == 1
    for last, status in ((len(events), 204), (2**31 - 1, 204), (2**31, 422), (2**68, 422)):  # the column holds 31 bits
        assert http.get(address, headers={"Last-Event-ID": str(last)}).status_code == status
        assert http.get(address, params={"after": last}).status_code == status


@pytest.mark.both_databases
def test_a_cancelled_job_tells_the_end_of_every_trial_before_its_own(settings: Settings, job: dict[str, Any]) -> None:
    slow = settings.model_copy(update={"epoch_seconds": 0.1})  # the next trial runs when the cancellation comes
    events = []
    with serving(build(slow).app) as url, httpx.Client(base_url=url, timeout=30) as http:
        job_id = submit_job(http, job | {"budget": {"max_trials": 500, "confirm_runs": 0, "stop_early": False}})
        for event in read_events(http, job_id):
            events.append(event)
            if event.kind is EventKind.TRIAL_ENDED and len(told(events, EventKind.TRIAL_ENDED)) == 2:
                http.post(f"{JOBS}/{job_id}/cancel").raise_for_status()
        check_story(events, trials_of(http, job_id))
    assert (events[-1].kind, events[-1].state) == (EventKind.JOB_ENDED, JobState.CANCELLED)
    assert "CANCELLED" in {event.state for event in told(events, EventKind.TRIAL_ENDED)}


def test_a_silent_stream_says_that_it_is_alive(settings: Settings, job: dict[str, Any]) -> None:
    slow = settings.model_copy(update={"epoch_seconds": 1000.0, "heartbeat": timedelta(seconds=0.1)})
    service = build(slow)
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=60) as http:
        job_id = submit_job(http, job)
        with http.stream("GET", f"{JOBS}/{job_id}/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            comments = (line for line in answer.iter_lines() if line.startswith(":"))
            assert next(comments)
            assert next(comments)
            service.runtime.stopping.set()  # as the server's stop does: the stream ends, and nobody waits for it
            assert len(list(islice(comments, 100))) < 100  # ten seconds of heartbeats: a stream that goes on


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("job-nope/events", 404),
        ("job-nope%00/events", 404),
        ("job-nope/events?after=-1", 422),
        (f"job-nope/events?after={2**31 - 1}", 404),
        (f"job-nope/events?after={2**31}", 422),
        (f"job-nope/events?after={2**68}", 422),
        (f"job-nope/trials/0/logs?offset={2**63}", 422),
        (f"job-nope/trials/{2**68}/logs?attempt={2**68}", 404),
    ],
)
def test_what_cannot_be_streamed_is_a_problem(http: httpx.Client, path: str, status: int) -> None:
    answer = http.get(f"{JOBS}/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("where", ["record_epochs", "record_ends"])
def test_what_was_done_before_a_crash_and_not_told_is_told_after_it(
    settings: Settings, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise Crash

    def run(service: Service, job_id: str) -> list[EventView]:
        for _ in range(2000):
            service.dispatcher.tick()
            with service.runtime.database.read() as session:
                events = list(events_after(session, job_id, 0, limit=10_000))
            if events[-1].kind is EventKind.JOB_ENDED:
                return events
        raise AssertionError("the job did not end")

    spec = JobSpec.model_validate(job | {"budget": {"max_trials": 3, "confirm_runs": 1, "parallel_trials": 2}})
    service = build(settings)
    runtime = service.runtime
    submitted, _ = submit(
        spec,
        database=runtime.database,
        images=Path("/"),
        reach=runtime.reach,
        nodes=runtime.nodes(),
        trials=runtime.trials,
        files=runtime.files,
        key=None,
        now=runtime.now(),
    )
    service.dispatcher.wake()
    service.dispatcher.tick()  # two trials have begun
    with monkeypatch.context() as patched:
        patched.setattr(results_module if where == "record_ends" else attempts_module, where, die)
        with pytest.raises(Crash):
            run(service, submitted.id)
    service.close()
    service = build(settings)
    service.dispatcher.recover()
    events = run(service, submitted.id)
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=60) as http:
        check_story(events, trials_of(http, submitted.id))
    assert "LOST" in {event.state for event in told(events, EventKind.ATTEMPT_ENDED)}


@contextmanager
def server_process(folder: Path, *, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    url_file = folder / "url"
    url_file.unlink(missing_ok=True)
    options = ["--backend", "simulator", "--cpus", "2", "--port", str(port), "--state-dir", str(folder / "state")]
    command = [sys.executable, "-m", "service.cli.main", "serve", *options, "--url-file", str(url_file)]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "FIXNORM_EPOCH_SECONDS": "0.1"})
        try:
            deadline = time.monotonic() + 120
            while not url_file.exists():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield url_file.read_text().strip(), process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def test_a_stream_survives_the_death_of_the_server_with_nothing_lost_or_doubled(
    tmp_path: Path, job: dict[str, Any]
) -> None:
    job = job | {"budget": {"max_trials": 4, "confirm_runs": 1, "parallel_trials": 2, "stop_early": False}}
    seen: list[EventView] = []
    with server_process(tmp_path) as (url, process), httpx.Client(base_url=url, timeout=60) as http:
        job_id = submit_job(http, job)
        try:
            for event in read_events(http, job_id):
                seen.append(event)
                if len(told(seen, EventKind.TRIAL_EPOCH)) == 5:
                    process.kill()
        except httpx.TransportError:
            pass  # a killed server may leave half an answer
        process.wait(60)
    assert seen[-1].kind is not EventKind.JOB_ENDED
    with server_process(tmp_path, port=httpx.URL(url).port or 0) as (again, _), httpx.Client(base_url=again) as http:
        http.timeout = httpx.Timeout(60)
        seen += read_events(http, job_id, after=seen[-1].number)
        assert seen == list(read_events(http, job_id))
        check_story(seen, trials_of(http, job_id))
    assert (seen[-1].kind, seen[-1].state) == (EventKind.JOB_ENDED, JobState.SUCCEEDED)
    assert "LOST" in {event.state for event in told(seen, EventKind.ATTEMPT_ENDED)}
