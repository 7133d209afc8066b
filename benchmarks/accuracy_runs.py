"""Trains what the accuracy studies need. Each outcome is kept at once, so a stopped study goes on where it was.

    FIXNORM_DATA_ROOT=... python benchmarks/accuracy_runs.py methods
    FIXNORM_DATA_ROOT=... python benchmarks/accuracy_runs.py methods --top 5 --first 1 --seeds 1
    FIXNORM_DATA_ROOT=... python benchmarks/accuracy_runs.py methods --top 1 --first 2 --seeds 4

The first call trains the whole grid with seed 0 (some studies: 0 and 1). The others train more seeds of the best points
of every group; those that choose the point (seeds 0 and 1) are not those that are reported (2 and up).
``benchmarks/accuracy_pages.py`` makes the results pages.
"""

from __future__ import annotations

import argparse

from accuracy.runs import data_root, read_outcomes, train_missing
from accuracy.studies import CHOOSING_SEEDS, STUDIES, fresh


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--top", type=int, help="train more seeds of so many best points of every group")
    parser.add_argument("--first", type=int, default=1, help="first of those seeds")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    runs = STUDIES[options.study]()
    if options.top is not None:
        outcomes = list(read_outcomes(options.study).values())
        if options.first > 1:  # what is reported is not what chooses
            outcomes = [outcome for outcome in outcomes if outcome.run.seed in CHOOSING_SEEDS]
        runs = fresh(options.study, outcomes, seeds=options.seeds, first=options.first, top=options.top)
    train_missing(options.study, runs, root=data_root(), processes=options.processes)


if __name__ == "__main__":
    main()
