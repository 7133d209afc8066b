"""The Optuna dashboard beside our API, for reading only."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from waiting import wait_for


@pytest.mark.both_databases
def test_it_shows_a_jobs_study(http: httpx.Client, job: dict[str, Any]) -> None:
    view = wait_for(http, http.post("/api/v1/jobs", json=job).json()["id"])
    assert view.dashboard is not None
    study_id = view.dashboard.rsplit("/", 1)[-1]
    study = http.get(f"/api/studies/{study_id}").json()
    assert study["name"] == view.id
    assert len(study["trials"]) == view.progress.finished
    page = http.get(view.dashboard)
    assert page.status_code == 200
    assert "Optuna Dashboard" in page.text


def test_its_scripts_are_served_with_and_without_accepted_encodings(http: httpx.Client) -> None:
    page = http.get("/dashboard", follow_redirects=True).text
    script = page.split('src="/static/')[1].split('"')[0]
    for headers in ({"accept-encoding": "gzip"}, {"accept-encoding": ""}):
        answer = http.get(f"/static/{script}", headers=headers)
        assert answer.status_code == 200
        assert len(answer.text) > 100_000
    bare = httpx.Request("GET", f"{http.base_url}/static/{script}", headers={"host": http.base_url.host})
    assert http.send(bare).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed_through_it(http: httpx.Client, job: dict[str, Any], method: str) -> None:
    view = wait_for(http, http.post("/api/v1/jobs", json=job).json()["id"])
    assert view.dashboard is not None
    answer = http.request(method, f"/api/studies/{view.dashboard.rsplit('/', 1)[-1]}", json={})
    assert answer.status_code == 405
    assert answer.json()["code"] == "dashboard_is_read_only"
    assert http.get(f"/api/v1/jobs/{view.id}/trials").json()
