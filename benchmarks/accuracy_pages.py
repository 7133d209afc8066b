"""Writes the tables and plots of the accuracy studies into their results pages, from the outcomes that are kept.

    python benchmarks/accuracy_pages.py

A page marks the place of a table by ``<!-- table: NAME -->`` and ``<!-- end -->``; what lies between is written anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from accuracy.runs import read_outcomes
from accuracy.tables import TABLES

PAGES = ("accuracy.md",)
_BLOCK = re.compile(r"(<!-- table: (?P<name>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


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

    def table(found: re.Match[str]) -> str:
        study, draw = TABLES[found["name"]]
        return f"{found[1]}{draw(list(read_outcomes(study).values()))}\n{found[3]}"

    return _BLOCK.sub(table, page)


if __name__ == "__main__":
    main()
