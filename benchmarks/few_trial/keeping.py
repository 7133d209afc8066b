"""Courses of studies in a file of JSON lines, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["read_kept", "run_and_keep"]

C = TypeVar("C")  # a dataclass
T = TypeVar("T")


def read_kept(kind: type[C], file: Path | None) -> list[C]:
    """What a file has; nothing where there is none yet."""
    return [kind(**json.loads(line)) for line in file.read_text().splitlines()] if file and file.exists() else []


def run_and_keep(
    course: Callable[[T], C], tasks: Iterable[T], *, seed: Callable[[T], int], processes: int, file: Path | None
) -> list[C]:
    """Runs tasks in processes of their own and appends each course to the file as soon as it has ended.

    Args:
        course: Runs one.
        tasks: What to run.
        seed: Of a task. Tasks are run by it, so that what is kept of an interrupted run is balanced.
        processes: So many at a time.
        file: None keeps nothing.
    """
    courses = []
    with multiprocessing.get_context("forkserver").Pool(processes) as pool:
        for each in pool.imap_unordered(course, sorted(tasks, key=seed)):
            courses.append(each)
            if file is not None:
                found: Any = each
                with file.open("a") as lines:
                    lines.write(json.dumps(asdict(found)) + "\n")
    return courses
