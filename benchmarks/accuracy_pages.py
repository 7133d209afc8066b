"""Writes the tables and plots of the accuracy studies into their results pages, from the outcomes that are kept.

    python benchmarks/accuracy_pages.py

A page marks the place of a table by ``<!-- table: NAME -->`` and ``<!-- end -->``; what lies between is written anew.
"""

from __future__ import annotations

from pathlib import Path

import pages
from accuracy.runs import read_outcomes
from accuracy.tables import TABLES

PAGES = ("accuracy.md",)


def main() -> None:
    """Rewrites every page and draws every plot."""
    from accuracy.plots import draw_plots  # matplotlib, which the tables do without

    folder = Path(__file__).parent
    for page in PAGES:
        path = folder / page
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    draw_plots(folder / "accuracy")


def filled(page: str) -> str:
    """The page with every table as the outcomes give it."""

    def drawn(name: str) -> str:
        study, draw = TABLES[name]
        return draw(list(read_outcomes(study).values()))

    return pages.filled(page, drawn)


if __name__ == "__main__":
    main()
