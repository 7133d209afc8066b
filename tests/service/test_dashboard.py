"""The Optuna dashboard beside our API, for reading only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from waiting import wait_for
from watching import save_picture, watched_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser


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


def test_a_trials_link_on_a_jobs_page_shows_that_trial_there(
    browser: Browser, http: httpx.Client, job: dict[str, Any]
) -> None:
    view = wait_for(http, http.post("/api/v1/jobs", json=job).json()["id"])
    found = http.get(f"/api/v1/jobs/{view.id}/trials").json()[2]
    with watched_page(browser, str(http.base_url).rstrip("/")) as page:
        page.goto(f"/jobs/{view.id}")
        page.locator("#trial-2").get_by_role("link", name="2", exact=True).click()
        page.get_by_role("heading", name="Trial 2 ").wait_for()
        assert page.url.endswith("/trials?numbers=2")
        save_picture(page, "dashboard-trial")
        text = page.locator("body").inner_text()
    assert f"lr {found['params']['lr']}" in text


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
