"""Wall and CPU seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

__all__ = ["Spent", "cpu_seconds", "timed"]


@dataclass(frozen=True)
class Spent:
    """Seconds of one run: by the clock, and of CPU, over this process and all that it has started."""

    wall: float
    cpu: float


def timed(run: Callable[[], object]) -> Spent:
    """What a run takes."""
    wall, cpu = time.perf_counter(), cpu_seconds(psutil.Process())
    run()
    return Spent(time.perf_counter() - wall, cpu_seconds(psutil.Process()) - cpu)


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and of its descendants, those that have ended among them."""
    family = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:4]) for each in family)
