"""The HTML report in a real browser that has no network, and over HTTP in the states that a job goes through."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from counted import PETS
from reported import RUN, TRIALS, epoch, page
from standin import best, trial
from waiting import wait_for, wait_until
from watching import PATIENCE_MILLISECONDS, save_picture

from service.schemas import JobState, TrialState

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

JOBS = "/api/v1/jobs"
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
BACKGROUNDS = {"light": "rgb(245, 246, 248)", "dark": "rgb(18, 22, 27)"}


def opened(browser: Browser, file: Path, said: list[str], **options: Any) -> Page:
    """A report from its file, without a network; whatever it asks for or complains of is in ``said``."""
    shown = browser.new_context(offline=True, **options).new_page()
    shown.set_default_timeout(PATIENCE_MILLISECONDS)
    shown.on("request", lambda request: said.append(request.url))
    shown.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    shown.on("pageerror", lambda error: said.append(f"error: {error}"))
    shown.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    shown.goto(file.as_uri())
    return shown


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", BACKGROUNDS)
def test_a_report_draws_everything_offline_in_light_and_dark_on_any_screen(
    browser: Browser, tmp_path: Path, scheme: str, size: str
) -> None:
    file, said = tmp_path / "report.html", list[str]()
    rival = best(params={"lr": 0.5, "fc_norm": 1.0}, validation_accuracy=0.98, runs=1)
    found = best(params=dict(TRIALS[1].params), runner_up=rival, told_apart=False)
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)><b>it</b>"
    trials = [*TRIALS, trial(7, TrialState.FAILED, curve=(), reason=evil)]
    history = [epoch(1), epoch(2), epoch(3)]
    file.write_text(
        page(found=found, trials=trials, run=RUN, history=history, name=evil, reason=evil, classes=PETS),
        encoding="utf-8",
    )
    shown = opened(browser, file, said, viewport=SIZES[size], color_scheme=scheme)
    shown.locator(f"body[data-drawn={scheme}]").wait_for()
    places = shown.locator(".chart")
    assert places.count() == 11
    for number in range(places.count()):
        assert places.nth(number).locator(".main-svg").first.is_visible()
    assert shown.locator("#chart-0 .contourlayer path").count() > 0
    assert shown.locator("#chart-1 .scatterlayer .trace").count() == len(trials) - 2  # two failed before an epoch
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == BACKGROUNDS[scheme]
    assert shown.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
    assert evil in shown.locator("h1").inner_text()
    shown.get_by_role("button", name="Copy").nth(1).click()
    shown.get_by_role("button", name="Copied").wait_for()
    assert "name: job" in shown.evaluate("String(getSelection())")
    save_picture(shown, f"report-{size}-{scheme}")
    shown.context.close()
    assert said == [file.as_uri()]


def test_a_report_without_trials_has_nothing_to_draw_and_no_error(browser: Browser, tmp_path: Path) -> None:
    file, said = tmp_path / "report.html", list[str]()
    file.write_text(page(JobState.QUEUED, (), found=None, reason="waiting"), encoding="utf-8")
    shown = opened(browser, file, said)
    assert "No trial has begun." in shown.locator("main").inner_text()
    assert shown.locator("#undrawn").is_hidden()
    shown.context.close()
    assert said == [file.as_uri()]


def test_a_report_is_there_in_every_state_that_a_job_goes_through(http: httpx.Client, job: dict[str, Any]) -> None:
    def report(job_id: str) -> str:
        answer = http.get(f"{JOBS}/{job_id}/report", params={"format": "html"})
        assert answer.headers["content-security-policy"].startswith("sandbox")
        return answer.raise_for_status().text

    long = job | {"budget": {"max_trials": 5000, "confirm_runs": 0, "stop_early": False}}
    long_id = http.post(JOBS, json=long).json()["id"]
    wait_until(lambda: http.get(f"{JOBS}/{long_id}").json()["progress"]["finished"] > 0)
    http.post(f"{JOBS}/{long_id}/pause")
    assert "It is paused" in report(long_id)
    assert f"/jobs/{long_id}/report.html" in http.get(f"/jobs/{long_id}").text
    assert http.get(f"{JOBS}/{long_id}/report").status_code == 409  # Markdown is written at the end
    http.post(f"{JOBS}/{long_id}/cancel")
    wait_for(http, long_id)
    assert "It was cancelled" in report(long_id)
    fails = job | {
        "search": {"method": "weight_decay", "sampler": "tpe"},
        "budget": {"max_trials": 3, "max_failures": 1},
    }
    failed = wait_for(http, http.post(JOBS, json=fails).json()["id"])
    assert failed.state is JobState.FAILED
    assert "the simulator replays fixnorm curves" in report(failed.id)
    done = wait_for(http, http.post(JOBS, json=job).json()["id"])
    assert "It stopped" in report(done.id)
    assert done.best is not None
    assert f"{100 * done.best.validation_accuracy:.2f} %" in report(done.id)
    assert http.get(f"{JOBS}/job-nope/report", params={"format": "html"}).status_code == 404
