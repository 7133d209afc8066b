"""The API as the server itself shows it at ``/docs``: all of it, from itself alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from watching import save_picture, watched_page

from service.app import describe_api
from service.pages.reference import read_openapi

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_every_operation_and_every_document_is_read() -> None:
    document = describe_api()
    reference = read_openapi(document)
    told = {(one.method.lower(), one.path) for one in reference.operations}
    assert told == {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert {one.name for one in reference.documents} == set(document["components"]["schemas"])
    assert len({one.anchor for one in reference.operations}) == len(reference.operations)
    named = {name for one in reference.documents for field in one.fields for name in field.names}
    named |= {name for one in reference.operations for _, _, names in one.gives for name in names}
    assert named <= {one.name for one in reference.documents}
    submit = next(one for one in reference.operations if (one.method, one.path) == ("POST", "/api/v1/jobs"))
    assert submit.takes == ("JobSpec",)
    assert [(one.name, one.place) for one in submit.parameters] == [("idempotency-key", "header")]
    assert {status for status, _, _ in submit.gives} >= {"200", "201", "401", "409", "422"}


def test_fields_have_types_defaults_and_the_words_of_their_docstrings() -> None:
    documents = {one.name: one for one in read_openapi(describe_api()).documents}
    job = {field.name: field for field in documents["JobView"].fields}
    assert (job["best"].type, job["best"].names) == ("BestView or null", ("BestView",))
    assert job["state"].about == "" or "state" in job["state"].about
    assert job["place"].about.startswith("Among the jobs that wait for room, from 1")
    assert job["id"].required
    assert "Attributes:" not in documents["JobView"].about
    assert "RUNNING" in documents["JobState"].values
    budget = {field.name: field for field in documents["BudgetSpec"].fields}
    assert (budget["max_trials"].default, budget["stop_early"].default) == ("12", "true")
    for document in documents.values():
        assert "``" not in document.about
        assert ":class:" not in document.about


@pytest.mark.parametrize("scripts", [True, False])
def test_the_page_lists_the_api_without_asking_any_other_host(
    http: httpx.Client, browser: Browser, scripts: bool
) -> None:
    with watched_page(browser, str(http.base_url).rstrip("/"), java_script_enabled=scripts) as page:
        page.goto("/docs")
        paths = http.get("/openapi.json").json()["paths"]
        shown = page.locator(".operation summary code").all_inner_texts()
        assert sorted(set(shown)) == sorted(paths)
        page.locator("#post-api-v1-jobs summary").click()
        page.get_by_role("link", name="JobSpec").first.click()
        assert page.url.endswith("#JobSpec")
        save_picture(page, f"api-{scripts}")
    for gone in ("/redoc", "/docs/oauth2-redirect"):
        assert http.get(gone).status_code == 404
    assert "jsdelivr" not in http.get("/docs").text


def test_the_page_fits_on_a_phone(http: httpx.Client, browser: Browser) -> None:
    phone = {"width": 390, "height": 844}
    with watched_page(browser, str(http.base_url).rstrip("/"), viewport=phone, color_scheme="dark") as page:
        page.goto("/docs")
        page.locator("#post-api-v1-jobs summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        save_picture(page, "api-phone")
