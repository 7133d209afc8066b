"""Numbers and times as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

__all__ = ["knobs", "local_time", "number", "percent", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with two decimals; a dash when there is none."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def knobs(params: Mapping[str, float]) -> str:
    """A point of the search space in one line."""
    return ", ".join(f"{name} {number(value)}" for name, value in params.items())


def local_time(moment: datetime | None) -> str:
    """A time on this machine's clock, to the second; a dash when there is none."""
    return "-" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def sparkline(curve: Sequence[float], *, low: float, high: float, width: int = 16) -> str:
    """A curve as a row of bars.

    Args:
        curve: The values.
        low: The value of the lowest bar.
        high: The value of the highest bar.
        width: Bars at most; of a longer curve, values at even distances are drawn, the last one always.
    """
    if len(curve) > width:
        curve = [curve[(bar + 1) * len(curve) // width - 1] for bar in range(width)]
    span = (high - low) or 1.0
    steps = len(_BARS) - 1
    return "".join(_BARS[min(steps, max(0, round((value - low) / span * steps)))] for value in curve)
