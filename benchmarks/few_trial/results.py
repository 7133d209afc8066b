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


def read(*, trials: int = TRIALS) -> list[Course]:
    """All courses of at least ``trials`` trials, each as if it had ended after them; of one run twice, the longest."""
    lines = [line for path in sorted(RESULTS.glob("*.jsonl")) for line in path.read_text().splitlines()]
    longest: dict[tuple[str, str, int, int], Course] = {}
    for line in lines:
        course = Course(**json.loads(line))
        if course.key not in longest or len(course.regrets) > len(longest[course.key].regrets):
            longest[course.key] = course
    return [
        replace(
            course,
            regrets=course.regrets[:trials],
            stopped=course.stopped if course.stopped and course.stopped <= trials else None,
        )
        for course in longest.values()
        if len(course.regrets) >= trials
    ]
