"""Requests that Schemathesis makes up from the OpenAPI document, sent to a real server: what it answers is documented.

``FIXNORM_FUZZ=20000`` sends so many on each database, and fails if three quarters of an hour are too short for them;
without it a few per operation, on SQLite.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import serving

from service.access.scopes import Scope
from service.administration import create_token, upgrade_database
from service.app import describe_api
from service.composition import build
from service.schemas import JobState
from service.settings import Settings

CASES = int(os.environ.get("FIXNORM_FUZZ", "1000"))
LONG = CASES > 1000
PATIENCE_SECONDS = 2700
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


if LONG:
    pytestmark = pytest.mark.both_databases


@dataclass(frozen=True)
class Caller:
    """Somebody who asks a server: what they send with every request, and the jobs that they may name."""

    who: str
    url: str
    headers: dict[str, str]
    job_ids: list[str]


@pytest.fixture(params=["anyone", "nobody", "reader", "administrator"])
def caller(request: pytest.FixtureRequest, settings: Settings, job: dict[str, Any]) -> Iterator[Caller]:
    """On a server without tokens ("anyone") or with; one job of it has ended."""
    headers: dict[str, dict[str, str]] = {"anyone": {}, "nobody": {}}
    if request.param != "anyone":
        upgrade_database(settings)
        for name, scope in (("reader", Scope.READ), ("administrator", Scope.ADMIN)):
            token, _ = create_token(settings, name, scope, lifetime=None)
            headers[name] = {"Authorization": f"Bearer {token}"}
    trusted = headers.get("administrator", {})
    service = build(settings)
    with serving(service.app) as url, httpx.Client(base_url=f"{url}/api/v1", headers=trusted, timeout=60) as client:
        job_id = client.post("/jobs", json=job).raise_for_status().json()["id"]
        while client.get(f"/jobs/{job_id}").json()["state"] != JobState.SUCCEEDED:
            time.sleep(0.05)
        yield Caller(request.param, url, headers[request.param], [job_id, "job-0000000000"])
    service.close()


def test_no_request_is_answered_in_a_way_that_the_document_does_not_tell(caller: Caller) -> None:
    operations = [found.ok() for found in schemathesis.openapi.from_dict(describe_api()).get_all_operations()]
    assert len(operations) > 25
    each = max(1, CASES // 4 // len(operations))
    answers: Counter[int] = Counter()
    end = time.monotonic() + PATIENCE_SECONDS / 4
    send_to_all(operations, each, caller, answers, end)
    while (
        LONG and answers.total() < CASES / 4 and time.monotonic() < end
    ):  # of some there are not so many to be made up
        send_to_all(operations, each, caller, answers, end)
    print(caller.who, answers.total(), "requests:", dict(answers))
    assert answers.total() >= (CASES / 4 if LONG else each * len(operations) / 2)
    if caller.who == "nobody":
        assert answers.keys() <= {200, 401, 429}
        assert answers[401] > answers[200]
    elif caller.who == "reader":
        assert {200, 403, 404, 422} <= answers.keys()
    else:
        assert {200, 404, 422} <= answers.keys()


def send_to_all(operations: list[Any], each: int, caller: Caller, answers: Counter[int], end: float) -> None:
    """Sends ``each`` requests of every operation, or what there is time for until the ``end``."""
    for done, operation in enumerate(operations):
        now, before = time.monotonic(), answers.total()
        share = (end - now) / (len(operations) - done)  # none takes another's time
        send(operation, each, caller, answers, now + max(share, 3.0))
        assert answers.total() > before, f"there was no time for {operation.label}"


def send(operation: Any, count: int, caller: Caller, answers: Counter[int], end: float) -> None:
    """Sends so many requests of one operation, none after the ``end``, and checks each answer."""

    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not LONG,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of(operation.as_strategy(generation_mode=mode) for mode in GenerationMode),
        job_id=st.sampled_from(caller.job_ids),
        is_known=st.booleans(),
    )
    def ask(case: Any, job_id: str, is_known: bool) -> None:
        if time.monotonic() > end:
            return
        if is_known and "job_id" in case.path_parameters:
            case.path_parameters["job_id"] = job_id
        answer = case.call(base_url=caller.url, headers=caller.headers, timeout=60)
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code == 403 and caller.who in ("anyone", "administrator"):
            assert answer.json()["code"] == "not_from_here"  # a made-up cookie, and no word of which page sends it
        answers[answer.status_code] += 1

    ask()
