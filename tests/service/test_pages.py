"""Our web pages, in a real browser and over plain HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from counted import PETS, count_classes
from flaky import flaky
from serving import serving
from standin import best
from waiting import wait_for
from watching import PATIENCE_MILLISECONDS, save_picture, watched_page

from fixnorm_core.spec import JobSpec, Method
from fixnorm_core.training.optimization import rest_lr_factor
from service.composition import Service, build
from service.database.rows import JobRow
from service.pages.endpoints import VERBS
from service.pages.rendering import moment
from service.reporting.recipe import job_file, training_code
from service.schemas import JobState, JobView
from service.settings import Settings
from worker.contracts import FailureKind

if TYPE_CHECKING:
    from playwright.sync_api import Browser

JOBS = "/api/v1/jobs"
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """A server whose trials take a while, so that a page can be watched filling up."""
    service = build(settings.model_copy(update={"epoch_seconds": 0.25}))
    with serving(service.app) as address:
        yield address


def submit(url: str, job: dict[str, Any]) -> str:
    return str(httpx.post(url + JOBS, json=job, timeout=60).raise_for_status().json()["id"])


def ended(url: str, job_id: str) -> JobView:
    with httpx.Client(base_url=url, timeout=60) as client:
        return wait_for(client, job_id)


@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(245, 246, 248)"), ("dark", "rgb(18, 22, 27)")])
def test_a_page_is_as_dark_as_the_system_and_fits_a_phone(
    browser: Browser, http: httpx.Client, job: dict[str, Any], scheme: str, background: str
) -> None:
    url = str(http.base_url).rstrip("/")
    job_id = wait_for(http, submit(url, job)).id
    with watched_page(browser, url, viewport=PHONE, color_scheme=scheme) as page:
        for name, path in (("jobs", "/"), ("job", f"/jobs/{job_id}")):
            page.goto(path)
            if name == "job":
                page.locator("#curves .main-svg").first.wait_for()
                page.locator("#surface .main-svg").first.wait_for()
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            save_picture(page, f"{name}-phone-{scheme}")


def test_an_ended_jobs_page_tells_how_its_classes_fared(
    browser: Browser, service: Service, http: httpx.Client, job: dict[str, Any]
) -> None:
    url = str(http.base_url).rstrip("/")
    job_id = wait_for(http, submit(url, job)).id
    refused = http.get(f"{JOBS}/{job_id}/classes")
    assert (refused.status_code, "looks at no images" in refused.text) == (409, True)
    with watched_page(browser, url, viewport=PHONE) as page:
        page.goto(f"/jobs/{job_id}")
        page.locator("#curves .main-svg").first.wait_for()
        assert page.locator("#classes-title").count() == 0
        with service.runtime.database.write.begin() as session:
            count_classes(session, job_id)
        assert http.get(f"{JOBS}/{job_id}/classes").json()["confusions"][0]["count"] == 4
        page.locator("#confusion .main-svg").first.wait_for()  # the page finds it by itself, and draws what has come
        rows = page.locator("table.classes tbody th").all_inner_texts()
        assert rows == ["hare", PETS.classes[0].name, "dog", "newt"]
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        save_picture(page, "classes-phone")
        page.set_viewport_size({"width": 1280, "height": 900})
        save_picture(page, "classes")


def test_runs_of_the_best_point_that_disagree_are_told_on_its_page(
    browser: Browser, service: Service, http: httpx.Client, job: dict[str, Any]
) -> None:
    url = str(http.base_url).rstrip("/")
    job_id = wait_for(http, submit(url, job)).id
    told = re.compile("Runs disagree: 98.00 %, 77.00 %, 73.00 % with nothing but the seed changed")
    assert not told.search(http.get(f"/jobs/{job_id}").text)
    with service.runtime.database.write.begin() as session:
        row = session.get_one(JobRow, job_id)
        unsteady = {"run_accuracies": [0.98, 0.77, 0.73], "weights_accuracy": 0.98, "disagree": True}
        row.result = (row.result or {}) | unsteady
    assert http.get(f"{JOBS}/{job_id}").json()["best"]["run_accuracies"] == [0.98, 0.77, 0.73]
    with watched_page(browser, url, viewport=PHONE) as page:
        page.goto(f"/jobs/{job_id}")
        page.get_by_text(told).wait_for()
        page.get_by_text("whose validation accuracy is 98.00 %").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        save_picture(page, "runs-disagree-phone")


def test_the_long_name_of_a_model_that_came_with_its_job_fits_a_phone(
    browser: Browser, settings: Settings, job: dict[str, Any]
) -> None:
    sent = {"code": "def build(num_classes):\n    raise NotImplementedError\n", "model": {"name": "code:build"}}
    allowing = settings.model_copy(update={"allow_code": True})
    with serving(build(allowing).app) as url, watched_page(browser, url, viewport=PHONE) as page:
        job_id = submit(url, job | sent)
        for path in ("/", f"/jobs/{job_id}"):
            page.goto(path)
            page.get_by_text("code@").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


STATES_AFTER = {
    "pause": [JobState.PAUSED],
    "resume": [JobState.RUNNING],
    "stop": [JobState.STOPPING, JobState.SUCCEEDED],  # the second as soon as no trial trains any more
    "cancel": [JobState.CANCELLED],
    "extend": [JobState.RUNNING],
}


@pytest.mark.parametrize("verb", STATES_AFTER)
def test_each_verb_is_a_button_that_asks_first(browser: Browser, url: str, job: dict[str, Any], verb: str) -> None:
    long = job | {"budget": {"max_trials": 500, "confirm_runs": 0, "stop_early": False}}
    job_id = submit(url, long)
    with watched_page(browser, url) as page:
        page.goto(f"/jobs/{job_id}")
        page.locator("#trial-0").wait_for()
        if verb == "resume":
            page.get_by_role("button", name="Pause").click()
        button = page.get_by_role("button", name=VERBS[verb].label)
        if VERBS[verb].confirm:
            asked: list[str] = []
            page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
            button.click()
            assert asked == [VERBS[verb].confirm]
            assert httpx.get(f"{url}{JOBS}/{job_id}").json()["state"] in ("QUEUED", "RUNNING")
            page.once("dialog", lambda dialog: dialog.accept())
        button.click()
        page.locator(", ".join(f".status .badge.{state.lower()}" for state in STATES_AFTER[verb])).wait_for()
        save_picture(page, f"after-{verb}")
    assert httpx.get(f"{url}{JOBS}/{job_id}").json()["state"] in STATES_AFTER[verb]


def test_an_ended_job_is_extended_on_its_page_which_shows_it_going_on_to_a_second_end(
    browser: Browser, url: str, job: dict[str, Any]
) -> None:
    job_id = submit(url, job)
    first = ended(url, job_id)
    with watched_page(browser, url) as page:
        page.goto(f"/jobs/{job_id}")
        page.get_by_role("spinbutton", name="Extend by so many trials").fill("4")
        page.get_by_role("button", name="Extend").click()
        page.locator(".status .badge.running").wait_for()
        page.get_by_role("link", name="Report").wait_for()  # of the first end, until the second
        page.evaluate("window.untouched = true")
        page.locator(".status .badge.succeeded").wait_for()
        assert page.evaluate("window.untouched")
        view = ended(url, job_id)
        page.get_by_text(f"{view.progress.finished} of {first.progress.max_trials + 4} trials").wait_for()
        page.get_by_role("link", name="Report").wait_for()
        save_picture(page, "extended")
    assert view.progress.finished > first.progress.finished


def test_a_failed_job_says_why_and_its_failed_trials_are_trained_again_by_a_button(
    browser: Browser, settings: Settings, job: dict[str, Any]
) -> None:
    budget = {"max_trials": 3, "confirm_runs": 0, "parallel_trials": 1, "max_failures": 2, "stop_early": False}
    service = build(settings.model_copy(update={"epoch_seconds": 0.1}), backend=flaky(2, FailureKind.CRASHED))
    with serving(service.app) as url, watched_page(browser, url) as page:
        job_id = submit(url, job | {"budget": budget})
        page.goto(f"/jobs/{job_id}")
        page.locator(".status .badge.failed").wait_for()
        assert page.locator("tbody .badge.failed").count() == 2
        assert "the worker was lost" in page.locator("#trial-1").inner_text()
        assert [each.inner_text() for each in page.locator(".verbs button").all()] == ["Retry", "Extend"]
        save_picture(page, "failed")
        page.get_by_role("button", name="Retry").click()
        page.locator(".status .badge.succeeded").wait_for()
        assert page.get_by_role("button", name="Retry").count() == 0
        page.get_by_role("heading", name="The recipe", exact=True).wait_for()
        states = page.locator("tbody .badge").all_inner_texts()
        assert (states.count("failed"), states.count("complete")) == (2, budget["max_trials"])
        save_picture(page, "after-retry")
        found = httpx.get(f"{url}{JOBS}/{job_id}/trials").json()
        assert [each["params"] for each in found[2:4]] == [each["params"] for each in found[:2]]


def test_a_page_finds_its_server_again(browser: Browser, settings: Settings, job: dict[str, Any]) -> None:
    slow = settings.model_copy(update={"epoch_seconds": 0.25})
    first = build(slow)
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MILLISECONDS)
    with serving(first.app) as url:
        port = httpx.URL(url).port
        assert port is not None
        job_id = submit(url, job)
        page.goto(f"{url}/jobs/{job_id}")
        page.locator("#trial-0").wait_for()
        first.runtime.stopping.set()
    page.get_by_text("The server does not answer").wait_for()
    with serving(build(slow).app, port=port):
        page.locator(".status .badge.succeeded").wait_for()
        assert page.locator("#lost").is_hidden()
    context.close()


def test_without_scripts_a_page_still_tells_everything_but_charts(
    browser: Browser, http: httpx.Client, job: dict[str, Any]
) -> None:
    url = str(http.base_url).rstrip("/")
    view = wait_for(http, submit(url, job))
    with watched_page(browser, url, java_script_enabled=False) as page:
        page.goto(f"/jobs/{view.id}")
        assert page.locator("tbody tr").count() == view.progress.finished
        assert "optimizer = FixNorm(" in page.locator("#code").inner_text()
        assert "Without JavaScript" in page.locator("noscript").inner_text()


@pytest.mark.parametrize("clipboard", [True, False])
def test_a_recipe_is_copied_over_plain_http_too_where_a_page_has_no_clipboard(
    browser: Browser, http: httpx.Client, job: dict[str, Any], clipboard: bool
) -> None:
    url = str(http.base_url).rstrip("/")
    job_id = wait_for(http, submit(url, job)).id
    with watched_page(browser, url, permissions=["clipboard-read", "clipboard-write"]) as page:
        if not clipboard:
            page.add_init_script("delete Navigator.prototype.clipboard")
        page.goto(f"/jobs/{job_id}")
        assert page.evaluate("'clipboard' in navigator") is clipboard
        page.get_by_role("button", name="Copy").nth(1).click()
        page.get_by_role("button", name="Copied").wait_for()
        page.evaluate("document.body.append(document.createElement('textarea'))")
        page.locator("textarea").press("Control+V")
        assert page.locator("textarea").input_value().strip() == page.locator("#file").inner_text().strip()


def test_every_asset_is_the_servers_own_and_may_be_kept(http: httpx.Client, job: dict[str, Any]) -> None:
    job_id = http.post(JOBS, json=job).json()["id"]
    page = http.get(f"/jobs/{job_id}")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert all(link.startswith(("/", "#")) for link in links)
    assets = {link for link in links if link.startswith("/assets/")}
    assert len(assets) >= 5
    for asset in assets:
        answer = http.get(asset)
        assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (200, True)
    assert http.get("/assets/../endpoints.py").status_code == 404
    assert http.get("/assets/nothing.js").status_code == 404


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_another_sites_page_cannot_press_a_button(http: httpx.Client, job: dict[str, Any], origin: str) -> None:
    job_id = http.post(JOBS, json=job | {"budget": {"max_trials": 500, "confirm_runs": 0}}).json()["id"]
    assert http.post(f"/jobs/{job_id}/cancel", headers={"origin": origin}).status_code == 403
    assert http.get(f"{JOBS}/{job_id}").json()["state"] != JobState.CANCELLED
    own = str(http.base_url).rstrip("/")
    pressed = http.post(f"/jobs/{job_id}/cancel", headers={"origin": own})
    assert (pressed.status_code, pressed.headers["location"]) == (303, f"/jobs/{job_id}")


def test_jobs_come_in_pages(http: httpx.Client, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.pages.endpoints._JOBS_ON_A_PAGE", 2)
    for number in range(3):
        http.post(JOBS, json=job | {"name": f"job {number}"})
    first = http.get("/").text
    assert ("job 2" in first, "job 0" in first, "Newest jobs" in first) == (True, False, False)
    (older,) = re.findall(r'href="(/\?cursor=[^"]+)"', first)
    rest = http.get(older).text
    assert ("job 2" in rest, "job 0" in rest, "Newest jobs" in rest) == (False, True, True)


def test_jobs_are_looked_for_on_the_page_and_what_is_found_stays_while_it_refreshes(
    browser: Browser, http: httpx.Client, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.pages.endpoints._JOBS_ON_A_PAGE", 2)
    url = str(http.base_url).rstrip("/")
    names = [f"birds & bees {number}" for number in range(3)]
    for name in (*names, "dogs"):
        wait_for(http, submit(url, job | {"name": name}))
    with watched_page(browser, url, viewport=PHONE) as page:
        page.goto("/")
        shown = page.locator(".jobs .name")
        assert shown.all_inner_texts() == ["dogs", names[2]]
        page.get_by_role("searchbox").fill("BIRDS &")
        page.get_by_role("combobox").select_option("SUCCEEDED")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="Older jobs").click()
        with page.expect_response(lambda answer: "/jobs?" in answer.url) as refreshed:
            assert shown.all_inner_texts() == names[:1]
        assert refreshed.value.status == 200
        page.get_by_role("link", name="Newest jobs").click()
        page.get_by_text(names[2]).wait_for()
        assert shown.all_inner_texts() == names[:0:-1]
        assert page.get_by_role("searchbox").input_value() == "BIRDS &"
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        save_picture(page, "jobs-found-phone")
        page.get_by_role("combobox").select_option("FAILED")
        page.get_by_role("button", name="Search").click()
        page.get_by_text("No such job.").wait_for()
    assert http.get("/", params={"state": "ASLEEP"}).status_code == 422


@pytest.mark.parametrize(
    ("zone", "shown"), [("UTC0", "2026-11-27 00:12:05 UTC"), ("IST-5:30", "2026-11-27 05:42:05 IST")]
)
def test_a_time_is_told_with_the_servers_zone(monkeypatch: pytest.MonkeyPatch, zone: str, shown: str) -> None:
    with monkeypatch.context() as there:
        there.setenv("TZ", zone)
        time.tzset()
        told = moment(datetime(2026, 11, 27, 0, 12, 5, tzinfo=UTC))
    time.tzset()
    assert f">{shown}</time>" in told
    assert datetime.fromisoformat(told.split('"')[1]) == datetime(2026, 11, 27, 0, 12, 5, tzinfo=UTC)


def test_a_page_says_one_epoch_and_what_its_time_counts(http: httpx.Client, job: dict[str, Any]) -> None:
    one = job | {"training": job["training"] | {"epochs": 1}}
    job_id = http.post("/api/v1/jobs", json=one).json()["id"]
    wait_for(http, job_id)
    text = http.get(f"/jobs/{job_id}").text
    assert "1 epoch a trial" in text
    assert "from its start to its end" in text
    httpx.post(f"{http.base_url}{JOBS}/{job_id}/extend".replace("//api", "/api"), json={"trials": 1}, timeout=60)
    again = wait_for(http, job_id)
    assert again.reopened_at is not None
    assert again.started_at is not None
    assert again.reopened_at > again.started_at
    assert "from when it last went on to its end" in http.get(f"/jobs/{job_id}").text  # not what was between


def test_the_list_tells_times_with_their_zone(http: httpx.Client, job: dict[str, Any]) -> None:
    view = JobView.model_validate(http.post(JOBS, json=job).json())
    assert f"submitted {moment(view.created_at)}" in http.get("/").text


@pytest.mark.parametrize("norm", [1.0, 2.0, "init"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("given", [None, 3.0])
def test_the_code_to_copy_has_the_trials_own_rates(norm: float | str, optimizer: str, given: float | None) -> None:
    training = {"weight_norm": norm, "optimizer": {"name": optimizer}, "rest_lr_factor": given}
    spec = JobSpec.model_validate({"training": training})
    code = training_code(spec, best())
    assert f"torch.optim.{'SGD' if optimizer == 'sgd' else 'AdamW'}(groups" in code
    told = re.search(r"rest_lr_factor=([0-9.]+)", code)
    assert (float(told[1]) if told else 8.0) == rest_lr_factor(spec.training)
    assert ("weight_norm" in code) == (norm != 1.0)
    compile(code, "recipe", "exec")


def test_the_job_file_to_copy_is_the_job_that_begins_at_the_best_point(job: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(job)
    again = JobSpec.model_validate(yaml.safe_load(job_file(spec, best())))
    assert again.search.start == {knob: pytest.approx(value, rel=1e-3) for knob, value in best().params.items()}
    assert again.model_copy(update={"search": spec.search}) == spec


def test_weight_decays_code_to_copy_decays_no_gains() -> None:
    spec = JobSpec.model_validate({"search": {"method": Method.WEIGHT_DECAY}})
    code = training_code(spec, best(params={"lr": 0.1, "weight_decay": 5e-4}))
    assert "lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0005" in code
    compile(code, "recipe", "exec")
