"""What is refused is told as a page to whoever looks at it in a browser, and as JSON to programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from waiting import wait_for
from watching import PATIENCE_MILLISECONDS, save_picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser

JOBS = "/api/v1/jobs"
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PROBLEM = "application/problem+json"
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture
def ended(http: httpx.Client, job: dict[str, Any]) -> str:
    """A job that has ended."""
    budget = {"max_trials": 1, "confirm_runs": 0}
    return wait_for(http, http.post(JOBS, json=job | {"budget": budget}).json()["id"]).id


@pytest.mark.parametrize(("scheme", "size"), [("light", "desktop"), ("dark", "phone")])
def test_a_button_that_comes_too_late_says_so_on_a_page_that_leads_back(
    browser: Browser, http: httpx.Client, ended: str, scheme: str, size: str
) -> None:
    context = browser.new_context(base_url=str(http.base_url), viewport=SIZES[size], color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MILLISECONDS)
    page.goto(f"/jobs/{ended}")
    late = f"<form id='late' method='post' action='/jobs/{ended}/pause'><button>Late</button></form>"
    page.evaluate(f"document.querySelector('main').insertAdjacentHTML('beforeend', {late!r})")
    page.get_by_role("button", name="Late").click()
    page.get_by_role("heading", name="Not possible now").wait_for()
    assert "SUCCEEDED" in page.get_by_role("alert").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
    save_picture(page, f"problem-{size}-{scheme}")
    page.get_by_role("link", name="Back to the job").click()
    page.locator(".status .badge.succeeded").wait_for()
    page.goto("/nothing")
    assert "There is nothing at /nothing." in page.get_by_role("alert").inner_text()
    context.close()


def test_what_is_missing_is_a_page_for_a_browser_and_json_for_a_program(http: httpx.Client, ended: str) -> None:
    for path in ("/nothing", "/jobs/job-nope", "/jobs/job-nope/report.html", f"/jobs/{ended}/trials/7/log"):
        page, problem = http.get(path, headers=HTML), http.get(path)
        assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8"), path
        assert "<h1>Not found</h1>" in page.text
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert (problem.status_code, problem.headers["content-type"]) == (404, PROBLEM)
        assert problem.json()["code"] == "not_found"
    part = http.get("/jobs/job-nope/live", headers=HTML | {"hx-request": "true"})
    assert part.headers["content-type"] == PROBLEM
    for path in (f"{JOBS}/job-nope", "/api/v1/nothing", "/api/nothing"):
        assert http.get(path, headers=HTML).headers["content-type"] == PROBLEM
    for path in ("/jobs/job-nope/explode", "/jobs/job-nope/cancel"):
        assert http.post(path).status_code == 404
        assert http.post(path, headers=HTML).headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("number", ["none", "", "0", "-1", "100001", "9" * 5000, "1e3", "\u0663" * 10])
def test_a_job_is_extended_by_no_number_that_is_none(http: httpx.Client, ended: str, number: str) -> None:
    page = http.post(f"/jobs/{ended}/extend", data={"number": number}, headers=HTML)
    assert (page.status_code, page.headers["content-type"]) == (422, "text/html; charset=utf-8")
    assert "1 to 100000" in page.text
    assert http.get(f"{JOBS}/{ended}").json()["state"] == "SUCCEEDED"


def test_words_of_a_request_cannot_write_into_the_page(http: httpx.Client) -> None:
    page = http.get("/jobs/%3Cimg%20src=x%20onerror=alert(1)%3E", headers=HTML)
    assert page.status_code == 404
    assert "<img src=x" not in page.text
    assert "&lt;img src=x" in page.text
