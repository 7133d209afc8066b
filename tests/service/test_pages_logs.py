"""The page of a trial's log: its attempts, what they have logged, and what they log while one looks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from flaky import flaky
from serving import serving
from waiting import wait_for, wait_until
from watching import save_picture, watched_page

from service.composition import build
from service.jobs.files import LogFile
from service.jobs.folders import trial_folder
from service.jobs.logs import read_end
from service.settings import Settings
from worker.contracts import FailureKind, log_path

if TYPE_CHECKING:
    from playwright.sync_api import Browser

JOBS = "/api/v1/jobs"
HTML = {"accept": "text/html"}
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    """Of a server whose trials take minutes, and whose first attempt is lost at once."""
    backend = flaky(1, FailureKind.RETRYABLE)
    backend.epoch_seconds = 60.0
    with (
        serving(build(settings, backend=backend).app) as url,
        httpx.Client(base_url=url, timeout=60) as opened,
    ):
        yield opened


@pytest.fixture
def running(client: httpx.Client, job: dict[str, Any]) -> str:
    """A job whose trial 0 is in its second attempt."""
    budget = {"max_trials": 3, "confirm_runs": 0, "parallel_trials": 1}
    job_id = str(client.post(JOBS, json=job | {"budget": budget}).json()["id"])
    trials = f"{JOBS}/{job_id}/trials"
    wait_until(lambda: [each["attempts"] for each in client.get(trials).json()] == [2])
    return job_id


def log_of(settings: Settings, job_id: str, attempt: int) -> Path:
    path = log_path(trial_folder(settings.state_dir, job_id, 0), f"{job_id}.0.{attempt}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize(("scheme", "size"), [("light", "desktop"), ("dark", "phone"), ("light", "phone")])
def test_a_log_is_read_from_its_trials_row_and_followed_until_its_attempt_ends(
    browser: Browser, client: httpx.Client, running: str, settings: Settings, scheme: str, size: str
) -> None:
    url = str(client.base_url).rstrip("/")
    with watched_page(browser, url, viewport=SIZES[size], color_scheme=scheme) as page:
        page.goto(f"/jobs/{running}")
        page.get_by_role("link", name="Log of trial 0").click()
        page.get_by_role("heading", name="Attempt 2").wait_for()
        page.get_by_text("Nothing was logged so far").wait_for()
        page.evaluate("window.untouched = true")
        lines = [f"epoch {epoch} of 200: <b>accuracy</b> 0.{epoch:03d}" for epoch in range(1, 201)]
        log_of(settings, running, 2).write_text("\n".join([*lines, ""]))
        shown = page.get_by_role("log")
        shown.wait_for()
        assert shown.inner_text().splitlines() == lines
        assert shown.locator("b").count() == 0
        with log_of(settings, running, 2).open("a") as file:
            file.write("epoch 201\n")
        last = page.get_by_text("epoch 201")
        last.wait_for()
        box, frame = last.bounding_box(), shown.bounding_box()
        assert box is not None
        assert frame is not None
        assert box["y"] + box["height"] <= frame["y"] + frame["height"]  # it stays at its end by itself
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
        save_picture(page, f"log-{size}-{scheme}")
        client.post(f"{JOBS}/{running}/cancel")
        page.get_by_text("this attempt is CANCELLED").wait_for()
        page.locator(".badge.cancelled").wait_for()
        assert page.locator("#log [hx-get]").count() == 0
        assert page.evaluate("window.untouched")
        assert client.get(page.get_by_role("link", name="Whole log").get_attribute("href") or "").text.startswith(
            lines[0]
        )
        page.get_by_role("navigation", name="Attempts at trial 0").get_by_role("link", name="1").click()
        page.get_by_role("heading", name="Attempt 1").wait_for()
        assert "the worker was lost" in page.get_by_role("log").inner_text()
        save_picture(page, f"log-attempt-{size}-{scheme}")


def test_of_a_large_log_its_end_is_shown(client: httpx.Client, running: str, settings: Settings) -> None:
    log_of(settings, running, 2).write_text("".join(f"line {line}\n" for line in range(200_000)))
    page = client.get(f"/jobs/{running}/trials/0/log", headers=HTML).text
    assert "line 199999\n" in page
    assert "line 100000\n" not in page
    assert "The last 64.0 KiB of 2.2 MiB." in page
    assert len(page) < 100_000


def test_what_has_no_log_says_so(client: httpx.Client, running: str) -> None:
    client.post(f"{JOBS}/{running}/cancel")
    wait_for(client, running)
    address = f"/jobs/{running}/trials/0/log"
    assert client.get(address, params={"attempt": 2}, headers=HTML).status_code == 200
    for wrong in (f"{address}?attempt=3", f"/jobs/{running}/trials/9/log", "/jobs/job-nope/trials/0/log"):
        page = client.get(wrong, headers=HTML)
        assert (page.status_code, "<h1>Not found</h1>" in page.text) == (404, True)
    for wrong in (f"{address}?attempt=0", f"{address}?attempt=x", f"/jobs/{running}/trials/{'9' * 5000}/log"):
        page = client.get(wrong, headers=HTML)
        assert (page.status_code, page.headers["content-type"]) == (422, "text/html; charset=utf-8")


def test_an_attempt_that_logged_nothing_says_so(http: httpx.Client, job: dict[str, Any]) -> None:
    view = wait_for(http, http.post(JOBS, json=job | {"budget": {"max_trials": 1, "confirm_runs": 0}}).json()["id"])
    page = http.get(f"/jobs/{view.id}/trials/0/log", headers=HTML).text
    assert "Nothing was logged." in page
    assert "Whole log" not in page


@pytest.mark.parametrize(
    ("content", "most", "end"),
    [
        (b"", 8, ""),
        (b"one\ntwo\n", 8, "one\ntwo\n"),
        (b"one\ntwo\n", 7, "two\n"),
        (b"a line of no end", 4, " end"),
        ("größer".encode(), 4, "ßer"),
    ],
)
def test_the_end_of_a_log_begins_with_a_whole_line(tmp_path: Path, content: bytes, most: int, end: str) -> None:
    (tmp_path / "log").write_bytes(content)
    text, size = read_end(LogFile(tmp_path / "log", tmp_path), most)
    assert (text, size) == (end, len(content))
    assert read_end(LogFile(tmp_path / "nothing", tmp_path), most) == ("", 0)
