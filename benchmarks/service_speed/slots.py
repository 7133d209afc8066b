"""Null trials on real Ray slots, and the same trials on Ray Tune with its Optuna search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from worker import ray_backend

from .null import SECONDS, TIMES, NullSlot
from .throughput import Load, whole_service
from .timing import Spent

__all__ = ["missing_for_tune", "on_ray", "on_tune"]

_HERE = Path(__file__).parents[1]
_NEEDED = ("pandas", "pyarrow", "tensorboardX")


def missing_for_tune() -> list[str]:
    """What Ray Tune needs and is not installed here; it is no requirement of this project."""
    return [name for name in _NEEDED if find_spec(name) is None]


def on_ray(load: Load, *, seconds: float = 0.0) -> tuple[Spent, list[float]]:
    """The whole service on the warm slots of a Ray started here.

    Args:
        load: What is run.
        seconds: How long each trial takes.

    Returns:
        What it took, and the seconds from the end of each trial to the start of the next on the same slot.
    """
    with tempfile.TemporaryDirectory() as notes, _null_slots(Path(notes), seconds):
        spent = whole_service(load, postgres=None, backend=ray_backend.RayBackend(cpus=float(load.parallel)))
        return spent, _gaps(Path(notes))


def on_tune(load: Load) -> Spent:
    """As many trials at the same parallelism on Ray Tune, in one experiment."""
    command = [
        sys.executable,
        "-m",
        "service_speed.tune",
        "--trials",
        str(load.total),
        "--parallel",
        str(load.parallel),
    ]
    path = os.pathsep.join(filter(None, (str(_HERE), os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return Spent(**json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def _null_slots(notes: Path, seconds: float) -> Iterator[None]:
    """Has Ray's slots train nothing, and note when they begin and end."""
    real, path = ray_backend.Slot, os.environ.get("PYTHONPATH", "")
    os.environ |= {
        TIMES: str(notes),
        SECONDS: str(seconds),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_HERE), path))),
    }
    ray_backend.Slot = NullSlot  # type: ignore[misc]
    try:
        yield
    finally:
        ray_backend.Slot = real  # type: ignore[misc]
        os.environ["PYTHONPATH"] = path


def _gaps(notes: Path) -> list[float]:
    """Less what followed trials of the first job, which warms up and is waited for before the others are submitted."""
    slots = [
        [(what, job, float(at)) for what, job, at in map(str.split, file.read_text(encoding="utf-8").splitlines())]
        for file in notes.iterdir()
    ]
    _, _, warming = min((at, what, job) for lines in slots for what, job, at in lines)
    return [
        then - at
        for lines in slots
        for (what, job, at), (following, _, then) in pairwise(lines)
        if (what, following) == ("end", "begin") and job != warming
    ]
