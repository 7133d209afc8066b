"""A job's page over answers that a proxy gives in the server's place, and over what others do to the job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from serving import serving
from waiting import wait_for
from watching import PATIENCE_MILLISECONDS, count_of, shown, watched_page

from service.composition import build
from service.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

JOBS = "/api/v1/jobs"


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    """Of a server whose trials take two seconds."""
    service = build(settings.model_copy(update={"epoch_seconds": 0.25}))
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=60) as opened:
        yield opened


@pytest.mark.parametrize("status", [502, 503])
def test_a_page_goes_on_after_a_proxy_has_answered_in_the_servers_place(
    browser: Browser, client: httpx.Client, job: dict[str, Any], status: int
) -> None:
    job_id = client.post(JOBS, json=job).json()["id"]
    page = browser.new_context(base_url=str(client.base_url)).new_page()
    page.set_default_timeout(PATIENCE_MILLISECONDS)
    bad = dict.fromkeys(("events", "live"), 1)

    def answer(route: Route) -> None:
        what = route.request.url.rpartition("/")[2].partition("?")[0]
        if bad[what] == 0:
            route.continue_()
            return
        bad[what] -= 1
        route.fulfill(status=status, content_type="text/html", body="<h1>Bad gateway</h1>")

    page.route("**/events?*", answer)
    page.route("**/live", answer)
    page.goto(f"/jobs/{job_id}")
    page.get_by_text("The server does not answer").wait_for()
    assert page.get_by_text("Bad gateway").count() == 0
    page.locator(".status .badge.succeeded").wait_for()
    assert bad == {"events": 0, "live": 0}
    assert page.locator("#lost").is_hidden()
    page.context.close()


def test_an_ended_jobs_page_notices_that_it_goes_on_elsewhere(
    browser: Browser, client: httpx.Client, job: dict[str, Any]
) -> None:
    budget = {"max_trials": 2, "confirm_runs": 0, "stop_early": False}
    job_id = wait_for(client, client.post(JOBS, json=job | {"budget": budget}).json()["id"]).id
    with watched_page(browser, str(client.base_url).rstrip("/")) as page:
        page.goto(f"/jobs/{job_id}")
        page.locator(".status .badge.succeeded").wait_for()
        page.evaluate("window.untouched = true")
        client.post(f"{JOBS}/{job_id}/extend", json={"trials": 1}).raise_for_status()
        wait_for(client, job_id)  # as a rule between two looks
        assert shown(page, count_of("#curves .scatterlayer .trace"), least=3) == 3
        client.post(f"{JOBS}/{job_id}/extend", json={"trials": 500}).raise_for_status()
        page.locator(".status .badge.running").wait_for()
        page.locator("#trial-4").wait_for()  # followed by its events again
        client.post(f"{JOBS}/{job_id}/stop").raise_for_status()
        page.locator(".status .badge.succeeded").wait_for()
        assert page.evaluate("window.untouched")
