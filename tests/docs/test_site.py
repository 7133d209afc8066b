"""The documentation's site: built with broken links as errors, complete, and it asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main
from watching import save_picture, watched_page

from service.app import describe_api
from service.cli.main import app

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text("# Here\n\n[nowhere](nowhere.md) and [no heading](#nothing)\n")
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    config = config.replace("docs_dir: docs", f"docs_dir: {tmp_path}").replace("hooks: [docs/_site/hooks.py]", "")
    path = tmp_path.parent / "mkdocs.yml"
    path.write_text(config.replace("docs/_site", str(ROOT / "docs/_site")))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(path)]
    built = subprocess.run(command, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert built.returncode != 0
    assert "nowhere.md" in built.stderr
    assert "#nothing" in built.stderr


def test_every_page_is_there_and_none_loads_from_elsewhere(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / (place.with_stem("index") if page.stem == "README" else place)).exists(), page
    assert (site / "benchmarks/few_trial.html").exists()
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        found = re.findall(
            r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>", page.read_text("utf-8")
        )
        assert found == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text("utf-8")) == [], style


def test_the_reference_has_every_command_every_path_and_the_public_names(site: Path) -> None:
    commands = (site / "reference/cli.html").read_text("utf-8")
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"fixnorm-tune {name}" in commands
    rest = (site / "reference/rest.html").read_text("utf-8")
    document = describe_api()
    for path in document["paths"]:
        assert f"<code>{path}</code>" in rest
    assert re.search(r"<code>Idempotency-Key</code></td>\s*<td>header</td>", rest, flags=re.IGNORECASE)
    for name in document["components"]["schemas"]:
        assert f'id="{name.lower()}"' in rest
    python = (site / "reference/python.html").read_text("utf-8")
    for name in (
        "FixNorm",
        "FixNormSampler",
        "find_roles",
        "Trainer",
        "load_classifier",
        "NoResultYetError",
        "JobView",
    ):
        assert re.search(rf'id="[\w.]*\.{name}"', python), name
    assert ":class:" not in python


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_read_in_a_browser_that_reaches_no_other_host(browser: Browser, url: str, scheme: str) -> None:
    with watched_page(browser, url, color_scheme=scheme) as page:
        for name in ("index", "quickstart", "how-to/python-client", "reference/python", "reference/rest", "choosing"):
            page.goto(f"/{name}.html")
            page.locator("article h1").wait_for()
            save_picture(page, f"site-{name.replace('/', '-')}-{scheme}")
        page.goto("/explanation/method.html")
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
        save_picture(page, f"site-explanation-{scheme}")


def test_the_site_is_searched_without_a_server_and_read_on_a_phone(browser: Browser, url: str) -> None:
    with watched_page(browser, url, viewport={"width": 390, "height": 844}) as page:
        page.goto("/index.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        save_picture(page, "site-phone")
    with watched_page(browser, url) as page:
        page.goto("/index.html")
        page.get_by_placeholder("Search").first.click()
        page.keyboard.type("webhooks")
        # results come while one types: the page that has a heading of that name is among the last ones
        page.locator(".md-search-result__item a[href*='quickstart.html']").first.wait_for(state="attached")
