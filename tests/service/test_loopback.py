"""Pages of other sites get nothing from a server on loopback."""

from __future__ import annotations

from typing import Any

import httpx


def test_a_foreign_host_name_is_refused_on_the_api_and_on_the_dashboard(http: httpx.Client) -> None:
    for path in ("/api/v1/jobs", "/dashboard", "/healthz"):
        answer = http.get(path, headers={"host": "evil.example"})
        assert (answer.status_code, answer.json()["code"]) == (403, "not_from_here")


def test_another_sites_page_cannot_submit_or_cancel(http: httpx.Client, job: dict[str, Any]) -> None:
    answer = http.post("/api/v1/jobs", json=job, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert http.get("/api/v1/jobs").json()["jobs"] == []


def test_the_servers_own_page_and_plain_clients_can(http: httpx.Client, job: dict[str, Any]) -> None:
    own = str(http.base_url).rstrip("/")
    assert http.post("/api/v1/jobs", json=job, headers={"origin": own}).status_code == 201
    port = http.base_url.port
    assert http.get("/healthz", headers={"host": f"localhost:{port}"}).status_code == 200
    assert http.get("/").status_code == 200
