"""Templates, and the words and small pictures in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from fixnorm_core.disk import size_text
from service.cli.words import knobs, number, percent
from service.pages.assets import address_of
from service.schemas import TERMINAL_STATES

__all__ = ["render"]

# What a page of ours may load and where its forms may go: this server. Plotly writes styles into the page.
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
}


def render(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one that replaces itself."""
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(values), status, headers=_HEADERS)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: ``7.6 s``, ``3 min 20 s``, ``2 h 5 min``; a dash for none."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(time: datetime) -> Markup:
    """A time on the server's clock, with its zone: the reader may be in another."""
    there = time.astimezone()
    return Markup('<time datetime="{}">{}</time>').format(there.isoformat(), f"{there:%Y-%m-%d %H:%M:%S %Z}")


def took(started: datetime | None, ended: datetime | None, now: datetime) -> str:
    """How long something has run, to the second; a dash before its start."""
    if started is None:
        return "-"
    whole = timedelta(seconds=max(0, int(((ended or now) - started).total_seconds())))
    return str(whole)


def sparkline(curve: Sequence[float], *, epochs: int, low: float, high: float) -> Markup:
    """A learning curve as a picture of 96 by 20 pixels, on the scale from ``low`` to ``high``."""
    width, height, edge = 96, 20, 2
    span = (high - low) or 1.0
    steps = max(1, epochs - 1)
    across, up = width - 2 * edge, height - 2 * edge
    points = " ".join(
        f"{edge + across * index / steps:.1f},{height - edge - up * (value - low) / span:.1f}"
        for index, value in enumerate(curve)
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 {0} {1}" width="{0}" height="{1}" aria-hidden="true" focusable="false">'
        '<polyline points="{2}"/></svg>'
    ).format(width, height, points)


def sentence(text: str) -> str:
    """Words as a sentence of their own; one that begins with a name or a path keeps that as it is."""
    first = text.partition(" ")[0]
    begun = text[:1].upper() + text[1:] if first.isalpha() else text
    return begun if begun.endswith((".", "!", "?")) else f"{begun}."


def prose(text: str) -> Markup:
    """Paragraphs of plain words with ``code`` in them."""
    paragraphs = (part for part in re.split(r"\n\s*\n", text.strip()) if part)
    return Markup("").join(Markup("<p>{}</p>").format(coded(part)) for part in paragraphs)


def coded(text: str) -> Markup:
    """Plain words with ``code`` in them."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # escaped before  # nosec B704


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("service.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "bytes": size_text,
        "coded": coded,
        "duration": duration,
        "knobs": knobs,
        "moment": moment,
        "number": number,
        "percent": percent,
        "prose": prose,
        "sentence": sentence,
    }
    made.globals |= {"asset": address_of, "sparkline": sparkline, "took": took, "TERMINAL_STATES": TERMINAL_STATES}
    return made


_ENVIRONMENT = _environment()
