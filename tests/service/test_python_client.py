"""The Python client, for threads and for asyncio, against real servers."""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import ServerProcess
from standin import Answer, Drop, StandIn, best, problem
from standin import job as job_view

from fixnorm_core.spec import JobSpec
from service.client import (
    AsyncClient,
    AsyncJob,
    Client,
    ConflictError,
    Job,
    NoResultYetError,
    NotAllowedError,
    NotAuthenticatedError,
    NotFoundError,
    ProblemError,
    RefusedInputError,
    ServerTroubleError,
    ServerUnreachableError,
    TooManyRequestsError,
    UnexpectedAnswerError,
    WaitTimeoutError,
)
from service.schemas import EventView, FieldProblem, JobState


@pytest.fixture
def server() -> Iterator[StandIn]:
    standin = StandIn()
    yield standin
    standin.stop()


def public(kind: type) -> dict[str, Callable[..., Any]]:
    methods = inspect.getmembers(kind, inspect.isfunction)
    return {name: method for name, method in methods if not name.startswith("_")}


@pytest.mark.parametrize(("sync", "asynchronous"), [(Client, AsyncClient), (Job, AsyncJob)])
def test_both_clients_have_the_same_calls(sync: type, asynchronous: type) -> None:
    assert public(sync).keys() == public(asynchronous).keys()
    for name, method in public(sync).items():
        twin = public(asynchronous)[name]
        one, other = inspect.signature(method, eval_str=False), inspect.signature(twin, eval_str=False)
        assert one.parameters == other.parameters, name
        gives_many = one.return_annotation.startswith("Iterator[")
        expected = {True: f"Async{one.return_annotation}", False: one.return_annotation}[gives_many]
        assert other.return_annotation == {"Job": "AsyncJob"}.get(expected, expected), name
        assert inspect.iscoroutinefunction(twin) is not gives_many, name
    one, other = inspect.signature(sync), inspect.signature(asynchronous)
    assert one.parameters.keys() == other.parameters.keys()


def test_a_laptop_without_torch_ray_and_a_database_has_the_client() -> None:
    program = "import sys, service.client; print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "httpx" in loaded
    for heavy in ("torch", "torchvision", "numpy", "ray", "optuna", "sqlalchemy", "fastapi", "uvicorn"):
        assert heavy not in loaded


@pytest.mark.both_databases
def test_a_submitted_job_is_waited_for_in_one_line(http: httpx.Client, job: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(job)
    with Client(str(http.base_url)) as client:
        ended = client.submit(spec).wait()
        assert ended.state is JobState.SUCCEEDED
        handle = client.attach(ended.id)
        assert (handle.id, handle.view) == (ended.id, ended)
        assert handle.best() == client.best(ended.id) == ended.best
        assert [event.number for event in handle.events()] == list(range(1, len(list(handle.events())) + 1))
        assert len(handle.trials()) == 6


def test_for_asyncio_as_well(http: httpx.Client, job: dict[str, Any]) -> None:
    async def run() -> None:
        spec = JobSpec.model_validate(job)
        async with AsyncClient(str(http.base_url)) as client:
            first, second = await asyncio.gather(client.submit(spec), client.submit(spec))
            ended = await asyncio.gather(first.wait(), second.wait(timeout=timedelta(minutes=2)))
            assert [one.state for one in ended] == [JobState.SUCCEEDED] * 2
            assert first.id != second.id
            seen = [event async for event in first.events()]
            assert [event.number for event in seen] == list(range(1, len(seen) + 1))
            assert seen[-1].state == "SUCCEEDED"
            assert len(await first.trials()) == 6
            assert await first.best() == ended[0].best
            assert {view.id for view in await client.jobs()} == {first.id, second.id}
            async for _ in second.events():
                break  # whoever has seen enough leaves, and nothing stays open or unsaid

    asyncio.run(run())


def test_whoever_waits_for_only_so_long_is_told_where_the_job_is(http: httpx.Client, job: dict[str, Any]) -> None:
    endless = JobSpec.model_validate(job | {"budget": {"max_trials": 100_000, "stop_early": False}})
    with Client(str(http.base_url)) as client:
        submitted = client.submit(endless)
        with pytest.raises(TimeoutError, match=f"job {submitted.id} is (QUEUED|RUNNING) after 0.2 s") as caught:
            submitted.wait(timeout=timedelta(seconds=0.2))
        assert isinstance(caught.value, WaitTimeoutError)
        assert caught.value.job.id == submitted.id
        assert submitted.cancel().state is submitted.view.state
        assert submitted.wait().state is JobState.CANCELLED


def test_waiting_takes_no_longer_than_was_said(server: StandIn) -> None:
    server.on("GET", "/api/v1/jobs/j1", job_view())
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with Client(server.url, sleep=sleep, clock=lambda: now[0]) as client, pytest.raises(WaitTimeoutError):
        client.wait("j1", timeout=timedelta(seconds=5), poll=timedelta(seconds=2))
    assert now == [5.0]
    assert len(server.requests) == 4


def test_waiting_outlasts_a_server_that_is_away_but_not_one_that_never_was(server: StandIn) -> None:
    away = Answer(b"<html>bad gateway</html>", 502, "text/html")
    done = job_view(JobState.SUCCEEDED)
    server.on("GET", "/api/v1/jobs/j1", job_view(), Drop(), Drop(), away, problem(503, "no_database", "gone"), done)
    pauses: list[float] = []
    with Client(server.url, sleep=pauses.append) as client:
        assert client.wait("j1") == done
        assert pauses == [0.5, 0.5, 1.0, 2.0]
        server.on("GET", "/api/v1/jobs/j2", away)
        with pytest.raises(UnexpectedAnswerError) as caught:
            client.wait("j2")
        assert caught.value.status == 502
        server.on("GET", "/api/v1/jobs/j3", job_view(), Drop())
        pauses.clear()
        with pytest.raises(ServerUnreachableError):
            client.wait("j3")
        assert 110 < sum(pauses) < 130


SPEC = {"max_trials": 4, "confirm_runs": 1, "parallel_trials": 2, "stop_early": False}


def read_in_sync(url: str, spec: JobSpec, on_event: Callable[[list[EventView]], None]) -> list[EventView]:
    seen: list[EventView] = []
    with Client(url) as client:
        for event in client.submit(spec).events():
            seen.append(event)
            on_event(seen)
        return seen


def read_in_asyncio(url: str, spec: JobSpec, on_event: Callable[[list[EventView]], None]) -> list[EventView]:
    async def run() -> list[EventView]:
        seen: list[EventView] = []
        async with AsyncClient(url) as client:
            events: AsyncIterator[EventView] = (await client.submit(spec)).events()
            async for event in events:
                seen.append(event)
                on_event(seen)
        return seen

    return asyncio.run(run())


@pytest.mark.parametrize("read", [read_in_sync, read_in_asyncio])
def test_events_go_on_over_the_death_of_the_server_with_nothing_lost_or_doubled(
    tmp_path: Path, job: dict[str, Any], read: Callable[..., list[EventView]]
) -> None:
    state_dir = tmp_path / "state"
    servers = [ServerProcess("first", tmp_path, state_dir=state_dir, epoch_seconds=0.1)]
    servers[0].start()
    servers[0].wait()
    url = servers[0].url
    killed_at: list[int] = []

    def kill_twice(seen: list[EventView]) -> None:
        if len(seen) in (12, 30):
            servers[-1].send(signal.SIGKILL)
            killed_at.append(seen[-1].number)
            another = f"after {len(seen)}"
            port = httpx.URL(url).port or 0
            servers.append(ServerProcess(another, tmp_path, state_dir=state_dir, port=port, epoch_seconds=0.1))
            servers[-1].start()  # nobody waits for it but the client

    try:
        seen = read(url, JobSpec.model_validate(job | {"budget": SPEC}), kill_twice)
        assert killed_at == [12, 30]
        assert [event.number for event in seen] == list(range(1, len(seen) + 1))
        assert (seen[-1].kind, seen[-1].state) == ("job.ended", "SUCCEEDED")
        with Client(url) as client:
            assert seen == list(client.events(seen[0].job))
            assert seen[20:] == list(client.events(seen[0].job, after=20))
            assert list(client.events(seen[0].job, after=seen[-1].number)) == []
    finally:
        for one in servers:
            one.stop()


def test_a_stream_that_never_began_and_a_page_that_is_no_stream_are_errors(server: StandIn) -> None:
    with Client(server.url) as client:
        with pytest.raises(NotFoundError):
            next(iter(client.events("job-nope")))
        server.on("GET", "/api/v1/jobs/j1/events", Answer(b"<html>hello</html>", content_type="text/html"))
        with pytest.raises(UnexpectedAnswerError):
            next(iter(client.events("j1")))
        server.stop()
        with pytest.raises(ServerUnreachableError):
            next(iter(client.events("j1")))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "odd", ProblemError),
        (401, "not_authenticated", NotAuthenticatedError),
        (403, "not_allowed", NotAllowedError),
        (404, "not_found", NotFoundError),
        (409, "job_has_ended", ConflictError),
        (409, "no_result_yet", NoResultYetError),
        (422, "invalid_spec", RefusedInputError),
        (429, "too_many", TooManyRequestsError),
        (500, "internal", ServerTroubleError),
        (503, "not_ready", ServerTroubleError),
    ],
)
def test_each_refusal_is_of_a_class_of_its_own_with_what_the_server_said(
    server: StandIn, status: int, code: str, kind: type[ProblemError]
) -> None:
    broken = (FieldProblem(field="search.space.lr", rule="low is above high", value=[2, 1]),)
    said = problem(status, code, "no such luck", way_out="try another", errors=broken)
    server.on("POST", "/api/v1/jobs", said)
    with Client(server.url) as client, pytest.raises(ProblemError) as caught:
        client.submit(JobSpec())
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.title, error.detail) == (status, code, "refused", "no such luck")
    assert (error.rule, error.way_out, error.errors, error.problem) == ("no such luck", "try another", broken, said)


def test_server_and_token_come_from_the_environment_unless_they_are_given(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("GET", "/api/v1/jobs/j1/best", best())
    monkeypatch.setenv("FIXNORM_SERVER", f"{server.url}/")
    monkeypatch.setenv("FIXNORM_TOKEN", "from-the-environment")
    with Client() as client:
        assert client.server == server.url
        client.best("j1")
    with Client(server.url, token="given") as client:
        client.best("j1")

    async def run() -> None:
        async with AsyncClient() as client:
            await client.best("j1")

    asyncio.run(run())
    monkeypatch.setenv("FIXNORM_TOKEN", "")
    with Client() as client:
        client.best("j1")
    sent = [request.headers.get("authorization") for request in server.requests]
    assert sent == ["Bearer from-the-environment", "Bearer given", "Bearer from-the-environment", None]
    monkeypatch.delenv("FIXNORM_SERVER")
    with Client() as client:
        assert client.server == "http://127.0.0.1:8780"
