"""What both clients make of open answers that break off, fall silent or are not this API's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standin import Answer, Drop, StandIn, trial

from service.client import AsyncClient, Client, ServerUnreachableError, UnexpectedAnswerError, following
from service.schemas import ATTEMPT_HEADER, TrialState

LOGS = "/api/v1/jobs/j1/trials/0/logs"
TRIALS = "/api/v1/jobs/j1/trials"
PAGE = Answer(b"<html>please log in</html>", content_type="text/html; charset=utf-8")


class Reader:
    """Calls one of the clients; the pauses that it took are kept, and none is waited for."""

    def __init__(self, kind: type[Client | AsyncClient]) -> None:
        self.kind = kind
        self.pauses: list[float] = []

    def call(self, url: str, name: str, *arguments: Any, **options: Any) -> Any:
        if self.kind is Client:
            with Client(url, sleep=self.pauses.append) as client:
                came = getattr(client, name)(*arguments, **options)
                return "".join(came) if name == "logs" else came
        return asyncio.run(self._call(url, name, *arguments, **options))

    async def _call(self, url: str, name: str, *arguments: Any, **options: Any) -> Any:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        async with AsyncClient(url, sleep=sleep) as client:
            came = getattr(client, name)(*arguments, **options)
            return "".join([piece async for piece in came]) if name == "logs" else await came


@pytest.fixture(params=[Client, AsyncClient])
def reader(request: pytest.FixtureRequest) -> Reader:
    return Reader(request.param)


@pytest.fixture
def server() -> Iterator[StandIn]:
    standin = StandIn()
    yield standin
    standin.stop()


def log(text: bytes, *, attempt: int = 1, status: int = 200, hangs: bool = False) -> Answer:
    return Answer(text, status, "text/plain; charset=utf-8", {ATTEMPT_HEADER: str(attempt)}, hangs)


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (PAGE, "text/html"),
        (Answer(b"hello", content_type="text/plain"), f"no {ATTEMPT_HEADER}"),
        (Answer(b"hello", content_type="text/plain", headers={ATTEMPT_HEADER: "last"}), f"{ATTEMPT_HEADER}: last"),
        (Answer(status=204), f"no {ATTEMPT_HEADER}"),
    ],
    ids=["page", "text of something else", "no number", "nothing"],
)
def test_what_is_no_log_of_this_api_is_said_so(
    server: StandIn, reader: Reader, answer: Answer, why: str, follow: bool
) -> None:
    server.on("GET", LOGS, answer)
    with pytest.raises(UnexpectedAnswerError, match=f"answered with {why}"):
        reader.call(server.url, "logs", "j1", 0, follow=follow)
    assert reader.pauses == []


def test_a_proxys_page_is_not_kept_as_weights_nor_given_out_as_a_report(
    server: StandIn, reader: Reader, tmp_path: Path
) -> None:
    server.on("GET", "/api/v1/jobs/j1/weights", PAGE)
    server.on("GET", "/api/v1/jobs/j1/report", PAGE)
    with pytest.raises(UnexpectedAnswerError, match="text/html"):
        reader.call(server.url, "download_weights", "j1", to=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnexpectedAnswerError, match="text/html"):
        reader.call(server.url, "report", "j1")


def test_half_a_character_of_a_killed_attempts_log_does_not_reach_the_next_ones(
    server: StandIn, reader: Reader
) -> None:
    server.on("GET", LOGS, log(b"gr\xc3"), log(b"", status=204))
    server.on("GET", LOGS, log("ößer".encode(), attempt=2), log(b"", attempt=2, status=204))
    server.on("GET", TRIALS, [trial(0, TrialState.RUNNING, attempts=2)], [trial(0, attempts=2)])
    assert reader.call(server.url, "logs", "j1", 0, follow=True) == "gr\ufffd\n--- attempt 2 ---\nößer"
    server.on("GET", "/api/v1/jobs/j2/trials/0/logs", log(b"gr\xc3"))
    assert reader.call(server.url, "logs", "j2", 0) == "gr\ufffd"


def test_a_followed_log_that_falls_silent_is_asked_for_again_from_there(
    server: StandIn, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_LONGEST_LOG_SILENCE_SECONDS", 1.5)
    server.on(
        "GET", LOGS, log(b"gr\xc3", hangs=True), log(b"", hangs=True), log(b"\xb6\xc3\x9fer"), log(b"", status=204)
    )
    server.on("GET", TRIALS, [trial(0)])
    assert reader.call(server.url, "logs", "j1", 0, follow=True) == "größer"
    asked = [request.query for request in server.sent("GET", LOGS)]
    assert [query["offset"] for query in asked] == [["0"], ["3"], ["3"], ["8"]]
    assert [query.get("attempt") for query in asked] == [None, ["1"], ["1"], ["1"]]
    assert reader.pauses == [0.5, 0.5]  # each time the server answered, so its patience was whole again


def test_a_machine_that_vanished_without_a_reset_is_noticed(
    server: StandIn, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_LONGEST_LOG_SILENCE_SECONDS", 0.05)
    server.on("GET", LOGS, log(b"epoch 1\n"), Drop(hangs=True))
    with pytest.raises(ServerUnreachableError):
        reader.call(server.url, "logs", "j1", 0, follow=True)
    assert 110 < sum(reader.pauses) < 130
