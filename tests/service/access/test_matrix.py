"""Every route of the application against everybody who may call it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from serving import serving

from service.access.failures import Failures
from service.access.scopes import NEEDS, Scope, need_of
from service.administration import create_token
from service.composition import Service, build
from service.settings import Settings

Calls = Callable[[str | None], httpx.Client]

STRANGERS = (None, "wrong", "revoked", "expired", "alien")
DASHBOARD = [("GET", "/dashboard"), ("GET", "/static/bundle.js"), ("GET", "/api/studies"), ("GET", "/csv/1")]


def find_app(asgi: Any) -> FastAPI:
    """The FastAPI application inside its wrappers."""
    while not isinstance(asgi, FastAPI):
        asgi = getattr(asgi, "app", None) or asgi._app
    return asgi


def routes_of(service: Service) -> set[tuple[str, str]]:
    found = iter_route_contexts(find_app(service.app).routes)
    return {(method, route.path) for route in found for method in route.methods or () if method != "HEAD"}


def test_every_route_declares_what_it_needs_and_nothing_else_is_declared(service: Service) -> None:
    routes = routes_of(service)
    assert len(routes) > 30
    assert routes == set(NEEDS)


def test_what_is_declared_nowhere_is_for_administrators_to_change(settings: Settings) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert need_of(method, "/api/v1/anything/new")[0].scope is Scope.ADMIN
    assert need_of("GET", "/dashboard/studies/1")[0].scope is Scope.READ


def ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    filled = path.format(job_id="job-0000000000", number=0, verb="pause", name="pages.css")
    return client.request(method, filled, json={} if method in ("POST", "PATCH") else None)


def verdict(answer: httpx.Response) -> str:
    """What the gate said; the page where one logs in says 401 itself to a token that is none."""
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return "let in"
    return {401: "unknown", 403: "not allowed"}.get(answer.status_code, "let in")


def test_each_route_lets_in_whom_it_should_and_nobody_else(service: Service, calls: Calls) -> None:
    object.__setattr__(service.runtime.access, "failures", Failures(lambda: next(later)))  # a minute for each look
    later = itertools.count(step=60)
    strangers = {who: calls(who) for who in STRANGERS}
    known = {scope: calls(scope) for scope in Scope}
    for method, path in [*NEEDS, *DASHBOARD]:
        need, _ = need_of(method, path)
        for who, client in strangers.items():
            answer = ask(client, method, path)
            # An open route too refuses a token that is none: whoever sends one wants to know
            expected = "let in" if need.scope is None and who is None else "unknown"
            assert verdict(answer) == expected, (method, path, who, answer.text)
            if expected == "unknown":
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.json()["way_out"]
        for scope, client in known.items():
            answer = ask(client, method, path)
            expected = "let in" if need.scope is None or scope.covers(need.scope) else "not allowed"
            assert verdict(answer) == expected, (method, path, scope, answer.text)
            if expected == "not allowed":
                assert answer.json()["code"] == "not_allowed"
                assert str(need.scope) in answer.json()["detail"]


def test_a_job_is_its_submitters_and_only_they_and_administrators_change_it(
    calls: Calls, job: dict[str, Any], handed_out: dict[str, str], settings: Settings
) -> None:
    long = job | {"budget": {"max_trials": 500, "confirm_runs": 0}}
    mine = calls("submit").post("/api/v1/jobs", json=long).raise_for_status().json()
    assert mine["spec"]["share"]["user"] == "submiter"
    handed_out["other"] = create_token(settings, "other", Scope.SUBMIT, lifetime=None)[0]
    for path in ("/api/v1/jobs/{}/pause", "/jobs/{}/pause"):
        refused = calls("other").post(path.format(mine["id"]))
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
        assert "submiter" in refused.json()["detail"]
    assert calls("other").get(f"/api/v1/jobs/{mine['id']}").status_code == 200
    assert calls("submit").post(f"/api/v1/jobs/{mine['id']}/pause").json()["state"] == "PAUSED"
    assert calls("admin").post(f"/api/v1/jobs/{mine['id']}/cancel").status_code == 200
    page = calls("other").get(f"/jobs/{mine['id']}", headers={"accept": "text/html"}).text
    assert "/extend" not in page
    assert "/extend" in calls("submit").get(f"/jobs/{mine['id']}", headers={"accept": "text/html"}).text


def test_an_administrator_may_submit_for_somebody_else(calls: Calls, job: dict[str, Any]) -> None:
    view = calls("admin").post("/api/v1/jobs", json=job | {"share": {"user": "ann"}}).raise_for_status().json()
    assert view["spec"]["share"]["user"] == "ann"
    view = calls("admin").post("/api/v1/jobs", json=job).raise_for_status().json()
    assert view["spec"]["share"]["user"] == "adminer"


def test_metrics_are_open_only_where_the_operator_says_so(settings: Settings, handed_out: dict[str, str]) -> None:
    built = build(settings.model_copy(update={"open_metrics": True}))
    with serving(built.app) as url:
        assert httpx.get(f"{url}/metrics").status_code == 200
        assert httpx.get(f"{url}/api/v1/jobs").status_code == 401
