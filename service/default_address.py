"""Where a server listens and a client looks for it, unless either is told otherwise; imports nothing."""

from __future__ import annotations

__all__ = ["DEFAULT_PORT", "DEFAULT_SERVER"]

DEFAULT_PORT = 8780
DEFAULT_SERVER = f"http://127.0.0.1:{DEFAULT_PORT}"
