from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from standin import Answer, Drop, StandIn, best, job, problem, trial

from fixnorm_core.recipes import find_recipe, list_recipes
from fixnorm_core.spec import JobSpec
from service.client import (
    BadServerAddressError,
    Client,
    ProblemError,
    ServerUnreachableError,
    UnexpectedAnswerError,
)
from service.schemas import DatasetView, JobPage, JobState, ModelView, RecipeView


@pytest.fixture
def client(server: StandIn) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def test_a_submission_sends_the_whole_spec_and_gives_back_the_job(server: StandIn, client: Client) -> None:
    server.on("POST", "/api/v1/jobs", job())
    spec = JobSpec(name="mine", seed=7)
    assert client.submit(spec).view == job()
    (request,) = server.requests
    assert JobSpec.model_validate_json(request.body) == spec


def test_two_submissions_without_a_key_get_different_keys(server: StandIn, client: Client) -> None:
    server.on("POST", "/api/v1/jobs", job())
    client.submit(JobSpec())
    client.submit(JobSpec())
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert len(set(keys)) == 2


def test_a_submission_whose_connection_breaks_is_sent_again_with_the_same_key(server: StandIn, client: Client) -> None:
    server.on("POST", "/api/v1/jobs", Drop(), job())
    assert client.submit(JobSpec(), idempotency_key="k").id == "j1"
    assert [request.headers["idempotency-key"] for request in server.requests] == ["k", "k"]


def test_a_random_key_survives_the_second_try(server: StandIn, client: Client) -> None:
    server.on("POST", "/api/v1/jobs", Drop(), job())
    client.submit(JobSpec())
    first, second = (request.headers["idempotency-key"] for request in server.requests)
    assert first == second


def test_a_connection_that_breaks_twice_is_an_unreachable_server(server: StandIn, client: Client) -> None:
    server.on("GET", "/api/v1/jobs/j1", Drop())
    with pytest.raises(ServerUnreachableError):
        client.job("j1")
    assert len(server.requests) == 2


def test_a_server_that_is_not_there_is_named_with_the_way_out() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with Client(url) as client, pytest.raises(ServerUnreachableError) as caught:
        client.jobs()
    assert caught.value.url == url
    assert url in caught.value.rule
    assert "fixnorm-tune serve" in caught.value.way_out


def test_a_server_that_does_not_answer_in_time_is_unreachable() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout=timedelta(milliseconds=50)) as client, pytest.raises(ServerUnreachableError):
            client.jobs()


@pytest.mark.parametrize("address", ["127.0.0.1:8780", "ftp://host", "http://", "http://host:port", ""])
def test_an_address_that_is_no_url_is_refused(address: str) -> None:
    with pytest.raises(BadServerAddressError, match="is no server address"):
        Client(address)


def test_a_proxy_of_the_environment_is_not_asked_for_a_local_server(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server.on("GET", "/api/v1/jobs/j1", job())
    with Client(server.url) as client:
        assert client.job("j1") == job()


def test_a_refusal_carries_the_servers_problem(server: StandIn, client: Client) -> None:
    refusal = problem(409, "no_result_yet", "no trial of job j1 is complete", way_out="wait for one")
    server.on("GET", "/api/v1/jobs/j1/best", refusal)
    with pytest.raises(ProblemError) as caught:
        client.best("j1")
    assert caught.value.problem == refusal
    assert str(caught.value) == "no trial of job j1 is complete. wait for one"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"<html>hello</html>", 200, "text/html"),
        Answer(b"<html>gone</html>", 404, "text/html"),
        Answer(b'{"id": "j1"}', 200),
        Answer(b"", 200),
    ],
    ids=["page", "page with an error status", "fields missing", "empty"],
)
def test_what_is_no_answer_of_this_api_is_said_so(server: StandIn, client: Client, answer: Answer) -> None:
    server.on("GET", "/api/v1/jobs/j1", answer)
    with pytest.raises(UnexpectedAnswerError, match="which is not this API's answer"):
        client.job("j1")


def test_fields_that_only_a_newer_server_knows_are_ignored(server: StandIn, client: Client) -> None:
    text = job().model_dump_json().replace('"spec":{', '"new":1,"spec":{"newer":2,', 1)
    server.on("GET", "/api/v1/jobs/j1", Answer(text.encode()))
    assert client.job("j1") == job()


def test_all_pages_of_jobs_are_read(server: StandIn, client: Client) -> None:
    first = JobPage(jobs=(job(id="j2"),), next_cursor="c")
    server.on("GET", "/api/v1/jobs", first, JobPage(jobs=(job(id="j1"),), next_cursor=None))
    assert [found.id for found in client.jobs(state=JobState.RUNNING)] == ["j2", "j1"]
    assert [request.query.get("cursor") for request in server.requests] == [None, ["c"]]
    assert all(request.query["state"] == ["RUNNING"] for request in server.requests)


def test_no_more_jobs_are_read_than_asked_for(server: StandIn, client: Client) -> None:
    server.on("GET", "/api/v1/jobs", JobPage(jobs=(job(id="j2"),), next_cursor="c"))
    assert [found.id for found in client.jobs(limit=1)] == ["j2"]
    (request,) = server.requests
    assert request.query["limit"] == ["1"]


@pytest.mark.parametrize(
    ("verb", "state"), [("pause", JobState.PAUSED), ("resume", JobState.QUEUED), ("stop", JobState.STOPPING)]
)
def test_pause_resume_and_stop_are_typed(server: StandIn, client: Client, verb: str, state: JobState) -> None:
    server.on("POST", f"/api/v1/jobs/j1/{verb}", job(state))
    assert getattr(client, verb)("j1").state is state


def test_trials_best_and_cancel_are_typed(server: StandIn, client: Client) -> None:
    server.on("GET", "/api/v1/jobs/j1/trials", [trial(0), trial(1)])
    server.on("GET", "/api/v1/jobs/j1/best", best())
    server.on("POST", "/api/v1/jobs/j1/cancel", job(JobState.CANCELLED))
    assert client.trials("j1") == [trial(0), trial(1)]
    assert client.best("j1") == best()
    assert client.cancel("j1").state is JobState.CANCELLED


def test_models_and_datasets_are_named(server: StandIn, client: Client) -> None:
    server.on("GET", "/api/v1/models", [{"name": "small_resnet", "options": ["width"]}])
    server.on("GET", "/api/v1/datasets", [{"name": "digits", "about": "handwritten"}])
    assert client.models() == [ModelView(name="small_resnet", options=("width",))]
    assert client.datasets() == [DatasetView(name="digits", about="handwritten")]


def test_recipes_come_with_their_jobs(server: StandIn, client: Client) -> None:
    shipped = [RecipeView.of(recipe) for recipe in list_recipes()]
    server.on("GET", "/api/v1/recipes", shipped)
    assert client.recipes() == shipped
    assert client.recipes()[0].job == find_recipe("digits").job()


def test_a_job_id_cannot_leave_its_place_in_the_address(server: StandIn, client: Client) -> None:
    with pytest.raises(ProblemError):
        client.job("../models?x=1")
    (request,) = server.requests
    assert request.path == "/api/v1/jobs/..%2Fmodels%3Fx%3D1"


def test_wait_polls_until_the_job_has_ended(server: StandIn) -> None:
    server.on("GET", "/api/v1/jobs/j1", job(JobState.QUEUED), job(), job(JobState.FAILED))
    pauses: list[float] = []
    with Client(server.url, sleep=pauses.append) as client:
        ended = client.wait("j1", poll=timedelta(seconds=3))
    assert ended.state is JobState.FAILED
    assert pauses == [3.0, 3.0]


def test_weights_are_written_to_a_file_or_into_a_folder(server: StandIn, client: Client, tmp_path: Path) -> None:
    server.on("GET", "/api/v1/jobs/j1/weights", Answer(b"w" * 100_000, content_type="application/octet-stream"))
    file = client.download_weights("j1", to=tmp_path / "w.bin")
    inside = client.download_weights("j1", to=tmp_path)
    assert file == tmp_path / "w.bin"
    assert inside == tmp_path / "j1.safetensors"
    assert file.read_bytes() == inside.read_bytes() == b"w" * 100_000


def test_refused_weights_leave_nothing_behind(server: StandIn, client: Client, tmp_path: Path) -> None:
    server.on("GET", "/api/v1/jobs/j1/weights", problem(409, "no_result_yet", "not yet"))
    with pytest.raises(ProblemError):
        client.download_weights("j1", to=tmp_path)
    assert list(tmp_path.iterdir()) == []
