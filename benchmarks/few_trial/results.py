"""Where surfaces and courses are kept."""

from __future__ import annotations

import json
from pathlib import Path

from few_trial.contest import Course

__all__ = ["RECORDED", "RESULTS", "read"]

RESULTS = Path(__file__).parent / "results"

RECORDED = {path.stem: path for path in sorted((Path(__file__).parents[1] / "surfaces").glob("*.json"))}
"""The recorded surfaces by name; those of weight decay end in ``-decay``."""


def read() -> list[Course]:
    """All courses that have been run."""
    lines = [line for path in sorted(RESULTS.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [Course(**json.loads(line)) for line in lines]
