"""Scripts and styles of the pages: our own files and, from its own package, plotly's. None comes from elsewhere."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import plotly

from service import reporting

__all__ = ["address_of", "find_asset"]

_STATIC = Path(__file__).with_name("static")
_SHARED = Path(reporting.__file__).parent / "templates" / "copy.js"  # a report has it within itself
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def find_asset(name: str) -> tuple[Path, str] | None:
    """A file and its media type; None when there is no such asset."""
    path = _assets().get(name)
    return (path, _TYPES[path.suffix]) if path is not None else None


@lru_cache
def address_of(name: str) -> str:
    """Where a page finds an asset: with a digest of its content, so that a browser may keep it for ever."""
    digest = hashlib.sha256(_assets()[name].read_bytes()).hexdigest()
    return f"/assets/{name}?v={digest[:12]}"


@lru_cache
def _assets() -> dict[str, Path]:
    ours = {path.name: path for path in _STATIC.iterdir() if path.suffix in _TYPES}
    return ours | {
        _SHARED.name: _SHARED,
        "plotly.min.js": Path(plotly.__file__).parent / "package_data" / "plotly.min.js",
    }
