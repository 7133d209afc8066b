"""Who looks: a person at a page in a browser, or a program."""

from __future__ import annotations

from starlette.requests import HTTPConnection

__all__ = ["shows_a_page"]


def shows_a_page(conn: HTTPConnection) -> bool:
    """Whether a browser is about to show the answer as a page; a part that a page fetches for itself is none."""
    accepts = "text/html" in conn.headers.get("accept", "")
    return accepts and "hx-request" not in conn.headers and not conn.url.path.startswith("/api/")
