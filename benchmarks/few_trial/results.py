"""Where surfaces and courses are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from few_trial.contest import Course

__all__ = ["DECAYED", "RECORDED", "RESULTS", "TRIALS", "read"]

RESULTS = Path(__file__).parent / "results"

RECORDED = {path.stem: path for path in sorted((Path(__file__).parents[1] / "surfaces").glob("*.json"))}
"""The recorded surfaces by name."""

DECAYED = ("over-decay", "under-decay")
"""Of two of these tasks, the surfaces of the usual training over (lr, weight_decay)."""


TRIALS = 16
"""How many trials of a course count: some were run for longer."""


def read() -> list[Course]:
    """All courses that have been run, each as if it had ended after :data:`TRIALS` trials."""
    lines = [line for path in sorted(RESULTS.glob("*.jsonl")) for line in path.read_text().splitlines()]
    courses = [Course(**json.loads(line)) for line in lines]
    return [
        replace(
            course,
            regrets=course.regrets[:TRIALS],
            stopped=course.stopped if course.stopped and course.stopped <= TRIALS else None,
        )
        for course in courses
        if len(course.regrets) >= TRIALS
    ]
