"""A server on a real socket that answers what a test tells it to, and the views it answers with."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel

from fixnorm_core.reports import Evaluation
from fixnorm_core.spec import JobSpec
from service.schemas import BestView, JobState, JobView, Problem, Progress, TrialState, TrialView


@dataclass(frozen=True)
class Answer:
    """What to answer; one that ``hangs`` sends its body and then nothing more, its connection open."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False


class Drop:
    """The connection breaks in place of an answer, or stays and nothing comes, if it ``hangs``."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.hangs = hangs


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


class StandIn:
    """Answers each request with the next of its queued answers; the last one is repeated."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self._answers: dict[tuple[str, str], list[Answer | Drop]] = defaultdict(list)
        self._http: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self._respond))
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def on(self, method: str, path: str, *answers: Any) -> None:
        self._answers[method, path].extend(_answer(answer) for answer in answers)

    def sent(self, method: str, path: str) -> list[Received]:
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def _respond(self, request: Received) -> Answer | Drop:
        self.requests.append(request)
        queue = self._answers[request.method, request.path]
        if not queue:
            return _answer(problem(404, "not_found", f"no such thing as {request.path}"))
        return queue.pop(0) if len(queue) > 1 else queue[0]


def _answer(value: Any) -> Answer | Drop:
    if isinstance(value, (Answer, Drop)):
        return value
    if isinstance(value, Problem):
        return Answer(value.model_dump_json().encode(), value.status, "application/problem+json")
    if isinstance(value, BaseModel):
        return Answer(value.model_dump_json().encode())
    return Answer(json.dumps([v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in value]).encode())


def _handler(respond: Callable[[Received], Answer | Drop]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = respond(Received(self.command, url.path, parse_qs(url.query), headers, body))
            if isinstance(answer, Drop):
                self._hang() if answer.hangs else None
                return
            self.send_response(answer.status)
            self.send_header("content-type", answer.content_type)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if not answer.hangs:
                self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
            self._hang() if answer.hangs else None

        def _hang(self) -> None:
            """Until the client has gone."""
            with suppress(ConnectionError):
                self.connection.recv(1)

        do_GET = _any  # noqa: N815
        do_POST = _any  # noqa: N815
        do_PATCH = _any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def problem(status: int, code: str, detail: str, **more: Any) -> Problem:
    return Problem(title="refused", status=status, code=code, detail=detail, **more)


def best(**changes: Any) -> BestView:
    view = BestView(
        params={"lr": 0.012345, "fc_norm": 2.3},
        validation_accuracy=0.98263,
        standard_error=0.00351,
        standard_error_source="seeds and images",
        runs=3,
        trials=(1, 2, 3),
        confirmed=True,
        weights_trial=1,
        weights="/data/jobs/j1/weights.safetensors",
        weights_url="/api/v1/jobs/j1/weights",
        test=Evaluation(split="test", accuracy=0.975, loss=0.08, examples=360),
        report="/data/jobs/j1/report.md",
        stop_reason="all 3 trials are used",
    )
    return view.model_copy(update=changes)


def job(state: JobState = JobState.RUNNING, **changes: Any) -> JobView:
    ended = state in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
    fields: dict[str, Any] = {
        "id": "j1",
        "name": "digits",
        "state": state,
        "reason": "searching",
        "created_at": "2026-01-01T10:00:00Z",
        "started_at": "2026-01-01T10:00:01Z",
        "ended_at": "2026-01-01T10:01:00Z" if ended else None,
        "spec": JobSpec(),
        "progress": Progress(finished=1, running=1, failed=0, max_trials=3),
        "best": None,
        "dashboard": "/dashboard/studies/1",
    }
    return JobView.model_validate(fields | changes)


def trial(number: int = 0, state: TrialState = TrialState.COMPLETE, **changes: Any) -> TrialView:
    fields: dict[str, Any] = {
        "number": number,
        "state": state,
        "kind": "search",
        "params": {"lr": 0.01, "fc_norm": 1.0},
        "seed": 0,
        "validation_accuracy": 0.9333 if state is TrialState.COMPLETE else None,
        "curve": (0.5, 0.8, 0.9333),
        "epochs": 3,
        "reason": "",
        "attempts": 1,
        "seconds": 1.25,
    }
    return TrialView.model_validate(fields | changes)
