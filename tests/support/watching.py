"""A browser's page that remembers what went wrong on it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response

# A busy machine with two cores draws a chart in seconds
PATIENCE_MILLISECONDS = 240_000


@contextmanager
def watched_page(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page at ``url``'s server. At the end nothing was said on its console, and no other host was asked.

    Args:
        browser: The browser.
        url: Of the server, without a path.
        **options: Of the context: ``viewport``, ``color_scheme``, ``java_script_enabled``.
    """
    wrong: list[str] = []
    host = urlsplit(url).netloc

    def on_request(request: Request) -> None:
        target = urlsplit(request.url)
        if target.scheme not in ("data", "blob") and target.netloc != host:
            wrong.append(f"asked {request.url}")

    def on_response(response: Response) -> None:
        if response.status >= 400:
            wrong.append(f"{response.status} from {response.url}")

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "trace"):
            wrong.append(f"console {message.type}: {message.text}")

    context = browser.new_context(base_url=url, **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MILLISECONDS)
    page.on("request", on_request)
    page.on("response", on_response)
    page.on("console", on_console)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    try:
        yield page
    finally:
        context.close()
    assert wrong == []


def count_of(selector: str) -> str:
    """How many elements match, as an expression in JavaScript."""
    return f"document.querySelectorAll({selector!r}).length"


def shown(page: Page, number: str, *, least: int) -> int:
    """A number that a page shows, once it is no less than ``least``.

    Not by Playwright's ``wait_for_function``, which evaluates within the page: our pages' policy forbids that.

    Args:
        page: The page; it is left alone, so that whatever it shows comes to it by itself.
        number: The number, as an expression in JavaScript.
        least: What is waited for.
    """
    deadline = time.monotonic() + PATIENCE_MILLISECONDS / 1000
    while (now := int(page.evaluate(number))) < least:
        assert time.monotonic() < deadline, f"{number} is {now}, and {least} is waited for"
        page.wait_for_timeout(50)
    return now


def rising(page: Page, number: str, *, looks: int) -> list[int]:
    """So many numbers that a page shows one after the other, each larger than the one before."""
    seen: list[int] = []
    while len(seen) < looks:
        seen.append(shown(page, number, least=seen[-1] + 1 if seen else 0))
    return seen


def save_picture(page: Page, name: str) -> None:
    """Saves the whole page as ``name``.png, in ``build/pictures`` or the folder that ``FIXNORM_PICTURES`` names."""
    folder = Path(os.environ.get("FIXNORM_PICTURES") or _PICTURES)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)


_PICTURES = Path(__file__).parents[2] / "build" / "pictures"
