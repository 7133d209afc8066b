"""A job's page and the Optuna dashboard while the job runs, side by side in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from serving import serving
from waiting import wait_for
from watching import count_of, rising, save_picture, shown, watched_page

from service.composition import build
from service.schemas import JobState, JobView
from service.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

JOBS = "/api/v1/jobs"
NAME = "a <b>watched</b> job"

# What they show, as expressions in JavaScript
STARTED = """[...document.querySelectorAll("tbody tr")].filter(
    (row) => !(row.querySelector(".badge.cancelled") && row.textContent.includes("stopped by request"))).length"""
ENDED = count_of("tbody .badge.complete")
EPOCHS = "Array.from(document.querySelectorAll('tbody td:nth-last-child(2)'), at => parseInt(at.innerText))"
EPOCHS += ".reduce((sum, epochs) => sum + epochs, 0)"
DOTS = count_of("#surface .scatterlayer .point")
CURVES = count_of("#curves .scatterlayer .trace")
HISTORY = count_of("#plot-history .points path")
LISTED = r"parseInt(/(\d+) Trials/.exec(document.body.innerText)?.[1] ?? 0)"


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    """Of a server whose trials take three seconds."""
    with (
        serving(build(settings.model_copy(update={"epoch_seconds": 0.4})).app) as url,
        httpx.Client(base_url=url, timeout=60) as opened,
    ):
        yield opened


def view_of(client: httpx.Client, job_id: str) -> JobView:
    return JobView.model_validate(client.get(f"{JOBS}/{job_id}").json())


def test_a_jobs_page_and_the_optuna_dashboard_fill_up_while_it_runs_and_agree_when_it_has_ended(
    browser: Browser, client: httpx.Client, job: dict[str, Any]
) -> None:
    # More trials than can end: it is the test that ends it, however long a busy machine takes to draw
    budget = {"max_trials": 500, "confirm_runs": 0, "stop_early": False, "parallel_trials": 2}
    with ExitStack() as opened:
        page, charts, trials = (
            opened.enter_context(watched_page(browser, str(client.base_url).rstrip("/"))) for _ in range(3)
        )
        page.goto("/")
        page.get_by_text("No job yet").wait_for()
        job_id = str(client.post(JOBS, json=job | {"name": NAME, "budget": budget}).raise_for_status().json()["id"])
        page.get_by_role("link", name=NAME).click()  # the list fills up by itself too
        page.locator("#trial-0").wait_for()
        study = page.get_by_role("link", name="Study in the Optuna dashboard").get_attribute("href")
        assert study is not None
        charts.goto(study)
        charts.locator("#plot-history .main-svg").first.wait_for()
        trials.goto(f"{study}/trials")
        trials.get_by_text("Trial 0", exact=True).wait_for()
        for each in (page, charts, trials):
            each.evaluate("window.untouched = true")  # gone if it were loaded anew

        seen = {
            "epochs": rising(page, EPOCHS, looks=3),
            "trials": rising(page, ENDED, looks=3),
            "dots": rising(page, DOTS, looks=2),
            "curves": rising(page, CURVES, looks=2),
            "listed": rising(trials, LISTED, looks=3),
            "history": rising(charts, HISTORY, looks=2),
        }
        page.locator("#surface .contourlayer path").first.wait_for(state="attached")
        page.get_by_text("The recipe so far").wait_for()
        for name, each in (("job-running", page), ("dashboard-running", charts), ("dashboard-trials-running", trials)):
            save_picture(each, name)
        assert view_of(client, job_id).state is JobState.RUNNING, seen

        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Stop").click()  # a form: this loads the page, and it is followed on
        page.locator(".status .badge.succeeded").wait_for()
        view = wait_for(client, job_id)
        ended = view.progress.finished
        assert ended >= max(seen["trials"][-1], seen["history"][-1])
        assert shown(page, CURVES, least=ended) == ended
        # A trial that was suggested but not begun when Stop was pressed is a row too, and says what became of it
        page.wait_for_function(f"({STARTED}) === {ended}")  # its row may still change when the job's badge has
        assert page.evaluate(ENDED) == ended
        assert_tells_the_result(page, view)
        save_picture(page, "job-light")
        for each, count in ((charts, HISTORY), (trials, LISTED)):
            assert shown(each, count, least=ended) == ended
            assert each.evaluate("window.untouched")
        charts.get_by_text("Expected accuracy, and the trials").wait_for()
        save_picture(charts, "dashboard")

        charts.goto(f"{study}/note")
        back = charts.get_by_role("link", name=job_id).last
        back.wait_for()
        save_picture(charts, "dashboard-note")
        back.click()
        charts.locator(".status .badge.succeeded").wait_for()
        assert charts.url == page.url


def assert_tells_the_result(page: Page, view: JobView) -> None:
    page.get_by_role("heading", name="The recipe", exact=True).wait_for()
    assert view.best is not None
    assert view.best.test is not None
    assert f"{100 * view.best.test.accuracy:.2f} %" in page.locator(".numbers").inner_text()
    assert page.get_by_role("button", name="Cancel").count() == 0
