"""What a browser is told not to do with our answers, whatever part of the application gives them."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["REPORT_POLICY", "SafeHeaders"]

_NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""For data: shown as a page, it may load and run nothing."""

# Its scripts are its own files; it writes styles into the page, and plotly draws pictures from blobs.
_DASHBOARD = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; frame-ancestors 'none'"
)
"""A report is one file with its scripts inside and a job's words on it: it runs as a page of no site."""


class SafeHeaders:
    """An ASGI application that adds to the answers of ``app`` what they do not say themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", _policy(scope["path"]))
                headers.setdefault("X-Content-Type-Options", "nosniff")
                # With no referrer at all, a form's Origin would be null, and refused.
                headers.setdefault("Referrer-Policy", "same-origin")
                headers.setdefault("Cache-Control", "private, no-cache")
            await send(message)

        await self._app(scope, receive, send_safely)


def _policy(path: str) -> str:
    return _DASHBOARD if path.startswith(("/dashboard", "/static/")) else _NOTHING
