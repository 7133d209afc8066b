"""How the classes fared on the test split: rows for a table, the weakest class first, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fixnorm_core.reports import ClassEvaluation

__all__ = ["ClassRow", "class_rows", "confusion_chart"]

_MOST_DRAWN = 20
_MOST_LETTERS = 14
"""Of a class's name at the chart's edge; its squares tell the whole name."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class.

    Attributes:
        name: The class.
        examples: Images of it.
        recall: Share of its images that were recognized; None without any.
        precision: Share of right answers among those that named it; None if none did.
        taken_for: What it was most often taken for, and how often; None if never.
    """

    name: str
    examples: int
    recall: float | None
    precision: float | None
    taken_for: tuple[str, int] | None


def class_rows(evaluation: ClassEvaluation) -> Sequence[ClassRow]:
    """A row for each class, the one of the lowest recall first; those without an image come last."""
    most: dict[str, tuple[str, int]] = {}
    for each in evaluation.confusions:  # the most frequent first
        most.setdefault(each.label, (each.predicted, each.count))
    rows = [
        ClassRow(each.name, each.examples, each.recall, each.precision, most.get(each.name))
        for each in evaluation.classes
    ]
    return sorted(rows, key=lambda row: (row.recall is None, row.recall or 0.0))


def confusion_chart(evaluation: ClassEvaluation) -> dict[str, Any] | None:
    """The confusion matrix as a heat map, each row in shares of its class; None of more classes than can be read."""
    names = [each.name for each in evaluation.classes]
    if len(names) > _MOST_DRAWN or not evaluation.complete:
        return None
    place = {name: index for index, name in enumerate(names)}
    counts = [[0] * len(names) for _ in names]
    for each in evaluation.classes:
        counts[place[each.name]][place[each.name]] = each.correct
    for pair in evaluation.confusions:
        counts[place[pair.label]][place[pair.predicted]] = pair.count
    shares = [
        [round(100 * count / max(1, each.examples), 2) for count in row]
        for row, each in zip(counts, evaluation.classes, strict=True)
    ]
    ticks = {"tickvals": list(range(len(names))), "ticktext": [_short(name) for name in names], "showgrid": False}
    return {
        "data": [
            {
                "type": "heatmap",
                "z": shares,
                "text": [[str(count) if count else "" for count in row] for row in counts],
                "texttemplate": "%{text}",
                "customdata": [
                    [
                        f"{label} taken for {predicted}" if label != predicted else f"{label} recognized"
                        for predicted in names
                    ]
                    for label in names
                ],
                "hovertemplate": "%{customdata}<br>%{text} images, %{z:.1f} %<extra></extra>",
                "zmin": 0,
                "zmax": 100,
                "colorscale": [[0, "#edf3fa"], [0.5, "#8ab4e0"], [1, "#1f5fa8"]],
                "colorbar": {"title": {"text": "%"}, "thickness": 12},
                "xgap": 1,
                "ygap": 1,
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "taken for", "standoff": 12}, **ticks},
            "yaxis": {"autorange": "reversed", **ticks},
        },
    }


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"
