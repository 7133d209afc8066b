"""A browser's page that remembers what went wrong on it."""

from __future__ import annotations

import os
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


def save_picture(page: Page, name: str) -> None:
    """Saves the whole page as ``name``.png, where ``FIXNORM_PICTURES`` names a folder."""
    if folder := os.environ.get("FIXNORM_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
