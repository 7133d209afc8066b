"""Browsers: logging in and out, what ends a session, and pages of other sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import select
from waiting import wait_for
from watching import save_picture, watched_page

from service.access.sessions import LIFETIME
from service.administration import revoke_tokens
from service.composition import Service
from service.database.rows import SessionRow
from service.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HTML = {"accept": "text/html"}


@pytest.fixture
def browser_of(url: str, handed_out: dict[str, str]) -> Iterator[Callable[..., httpx.Client]]:
    """Logs in as a browser does."""
    opened: list[httpx.Client] = []

    def log_in(which: str, to: str = "/") -> httpx.Client:
        client = httpx.Client(base_url=url, timeout=30, headers=HTML | {"origin": url})
        opened.append(client)
        answer = client.post("/login", data={"token": handed_out[which], "next": to})
        assert answer.status_code == 303, answer.text
        assert answer.headers["location"] == to
        return client

    yield log_in
    for client in opened:
        client.close()


def test_a_browser_without_a_session_is_led_to_the_login_and_back(url: str, browser_of: Callable[..., Any]) -> None:
    answer = httpx.get(f"{url}/jobs/job-1?x=1", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/jobs/job-1%3Fx%3D1")
    assert httpx.get(f"{url}{answer.headers['location']}").status_code == 200
    client = browser_of("read", "/jobs?cursor=1")
    assert client.get("/", headers=HTML).status_code == 200
    assert client.get("/api/v1/jobs").status_code == 200
    assert client.get("/dashboard").status_code == 200


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "evil", "/a\nb"])
def test_a_login_leads_to_no_other_site(url: str, handed_out: dict[str, str], target: str) -> None:
    answer = httpx.post(f"{url}/login", data={"token": handed_out["read"], "next": target}, headers={"origin": url})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_the_cookie_is_kept_from_scripts_and_is_not_the_token(service: Service, url: str, handed_out: Any) -> None:
    for headers, name, secure in (({}, "fixnorm", False), ({"x-forwarded-proto": "https"}, "__Host-fixnorm", True)):
        origin = {"sec-fetch-site": "same-origin"}
        answer = httpx.post(f"{url}/login", data={"token": handed_out["read"]}, headers=headers | origin)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{name}=")
        parts = {part.strip().lower() for part in cookie.split(";")}
        assert {"httponly", "samesite=lax", "path=/"} <= parts
        assert ("secure" in parts) == secure
        value = cookie.split("=", 1)[1].split(";")[0]
        assert value not in handed_out["read"]
    with service.runtime.database.read() as session:
        assert value not in session.scalars(select(SessionRow.digest)).all()


def test_logging_out_revoking_the_token_and_time_end_a_session(
    service: Service, settings: Settings, browser_of: Callable[..., httpx.Client]
) -> None:
    leaving, staying, late = browser_of("read"), browser_of("read"), browser_of("admin")
    cookies = dict(leaving.cookies)
    assert leaving.post("/logout").status_code == 303
    assert leaving.get("/api/v1/jobs").status_code == 401
    assert httpx.get(f"{leaving.base_url}/api/v1/jobs", cookies=cookies).status_code == 401  # here too, not only there
    assert staying.get("/api/v1/jobs").status_code == 200
    revoke_tokens(settings, "reader")
    assert staying.get("/api/v1/jobs").status_code == 401
    assert late.get("/api/v1/jobs").status_code == 200
    access = service.runtime.access
    then = access.now() + LIFETIME + timedelta(seconds=1)
    object.__setattr__(access, "now", lambda: then)
    assert late.get("/api/v1/jobs").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {},
    ],
    ids=["origin", "null", "cross-site", "same-site", "silent"],
)
def test_a_page_of_another_site_cannot_use_a_browsers_session(
    browser_of: Callable[..., httpx.Client], job: dict[str, Any], headers: dict[str, str]
) -> None:
    client = browser_of("admin")
    client.headers.pop("origin")
    for path in ("/api/v1/jobs", "/jobs/job-1/cancel", "/logout"):
        answer = client.post(path, json=job, headers=headers)
        assert (answer.status_code, "may not change anything here" in answer.text) == (403, True)
    assert client.get("/api/v1/jobs").json()["jobs"] == []
    assert client.post("/api/v1/jobs", json=job, headers={"sec-fetch-site": "same-origin"}).status_code == 201


def test_a_page_that_renews_a_part_of_itself_is_sent_to_the_login_when_its_session_is_over(url: str) -> None:
    answer = httpx.get(f"{url}/jobs", headers=HTML | {"hx-request": "true", "hx-current-url": f"{url}/?cursor=3"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login?next=/%3Fcursor%3D3")


def test_in_a_real_browser(browser: Browser, service: Service, url: str, handed_out: Any, job: dict[str, Any]) -> None:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {handed_out['submit']}"}, timeout=60) as client:
        job_id = client.post("/api/v1/jobs", json=job).raise_for_status().json()["id"]
        view = wait_for(client, job_id)
    with watched_page(browser, url) as page:
        page.goto(f"/jobs/{job_id}")
        page.wait_for_url("**/login?next=**")
        save_picture(page, "login")
        page.get_by_label("Token").fill(handed_out["submit"])
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"**/jobs/{job_id}")
        page.locator("#curves .scatterlayer .trace").first.wait_for(state="attached")
        page.get_by_role("button", name="Extend").click()  # a form of ours, with the browser's own headers
        page.locator(f"text={view.progress.finished} of {view.progress.max_trials + 5} trials").first.wait_for()
        page.goto("/dashboard")
        page.get_by_text(job_id).first.wait_for()
        page.goto(view.dashboard or "")
        page.locator(".main-svg").first.wait_for()
        page.goto("/")
        assert page.request.get("/api/v1/jobs").status == 200
        page.get_by_role("button", name="Log out submiter").click()
        page.wait_for_url("**/login")
        assert page.request.get("/api/v1/jobs").status == 401


def test_a_report_runs_as_a_page_of_no_site(
    browser: Browser, url: str, handed_out: Any, browser_of: Callable[..., httpx.Client], job: dict[str, Any]
) -> None:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {handed_out['submit']}"}, timeout=60) as client:
        named = job | {"name": "<script>document.title='owned'</script>"}
        job_id = client.post("/api/v1/jobs", json=named).raise_for_status().json()["id"]
        wait_for(client, job_id)
    cookies = dict(browser_of("read").cookies)
    with watched_page(browser, url) as page:
        page.context.add_cookies([{"name": name, "value": value, "url": url} for name, value in cookies.items()])
        answer = page.goto(f"/jobs/{job_id}/report.html")
        assert answer is not None
        assert answer.headers["content-security-policy"].startswith("sandbox")
        page.locator(".main-svg").first.wait_for()
        assert page.evaluate("self.origin") == "null"
        assert page.title() != "owned"


def test_whoever_may_not_press_a_button_reads_why_and_how_to_log_in(
    calls: Callable[[str | None], httpx.Client], job: dict[str, Any]
) -> None:
    job_id = calls("submit").post("/api/v1/jobs", json=job).json()["id"]
    refused = calls("read").post(f"/jobs/{job_id}/pause", headers=HTML)
    assert (refused.status_code, "<h1>Not allowed</h1>" in refused.text) == (403, True)
    assert "Log out" in refused.text
    stranger = calls(None).post(f"/jobs/{job_id}/pause", headers=HTML)
    assert (stranger.status_code, stranger.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert stranger.headers["www-authenticate"].startswith("Bearer")
    assert f'href="/login?next=/jobs/{job_id}"' in stranger.text
