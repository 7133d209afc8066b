"""Writes the tables and plots of few-trial tuning into its results page, from the courses that are kept.

    python benchmarks/few_trial_pages.py

The page marks the place of a table by ``<!-- table: NAME -->`` and ``<!-- end -->``; what lies between is written anew.
"""

from __future__ import annotations

from pathlib import Path

import pages
from few_trial.results import read
from few_trial.tables import TABLES

PAGE = Path(__file__).parent / "few_trial.md"


def main() -> None:
    """Rewrites the page and draws its plots."""
    from few_trial.plots import draw_plots  # matplotlib, which the tables do without

    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw_plots(read(), PAGE.parent / "few_trial")


def filled(page: str) -> str:
    """The page with every table as the courses give it."""
    courses = read()
    return pages.filled(page, lambda name: TABLES[name](courses))


if __name__ == "__main__":
    main()
