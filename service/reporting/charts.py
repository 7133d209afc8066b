"""What charts of trials have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from service.schemas import TrialView

__all__ = ["count_axis", "log_axis", "round_ticks", "trial_label"]

_FEW = 6
"""Up to here plotly's own choice of ticks may fall between whole numbers."""

_MOST_STEPS = 8.0


def count_axis(title: str, *, most: int) -> dict[str, Any]:
    """An axis of whole numbers up to ``most``: no number stands at two ticks."""
    return {"title": {"text": title}, "tickformat": "d", **({"dtick": 1} if most <= _FEW else {})}


def log_axis(values: Iterable[float | None]) -> dict[str, Any]:
    """A log axis whose ticks are 1, 2 and 5 in each decade, or powers of ten where those would be too many."""
    known = [value for value in values if value is not None and 0 < value < math.inf]
    if not known:
        return {"type": "log"}
    low, high = math.floor(math.log10(min(known))) - 1, math.ceil(math.log10(max(known))) + 1
    digits = (1, 2, 5) if high - low <= 5 else (1,)
    ticks = [float(f"{digit}e{power}") for power in range(low, high + 1) for digit in digits]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def round_ticks(low: float, high: float) -> list[float]:
    """Three to nine multiples of 1, 2 or 5 of some power of ten, from ``low`` to ``high``."""
    power = math.floor(math.log10(high - low)) - 1
    steps = [float(f"{digit}e{power + more}") for more in (0, 1) for digit in (1, 2, 5)]
    step = next(step for step in steps if (high - low) / step <= _MOST_STEPS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{count * step:.12g}") for count in range(first, last + 1)]


def trial_label(trial: TrialView) -> str:
    """A trial in a few words, for a legend or a point."""
    accuracy = trial.validation_accuracy
    found = "" if accuracy is None else f", {100 * accuracy:.2f} %"
    return f"trial {trial.number} ({trial.kind}){found}"
