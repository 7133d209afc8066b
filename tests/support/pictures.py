"""Folders of small pictures, and the processes of a run."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image


def make_pictures(
    root: Path, *, count: int = 12, size: tuple[int, int] = (40, 30), classes: tuple[str, ...] = ("cat", "dog")
) -> Path:
    """``count`` smooth pictures of ``size`` (width, height) a class, as JPEG files; classes differ in brightness."""
    random = np.random.default_rng(len(root.parts))
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            coarse = random.integers(60 * label, 60 * label + 120, (4, 5, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
            picture.save(root / name / f"{number:03d}.jpg", quality=92)
    return root


def readers(parent: int | None = None) -> list[psutil.Process]:
    """The living processes that read images for ``parent``, or for this process."""
    return [child for child in psutil.Process(parent).children(recursive=True) if _reads(child)]


def readers_once(count: int, *, parent: int | None = None) -> list[psutil.Process]:
    """The same, as soon as there are so many: a process that has just started is not yet known for a reader."""
    deadline = time.monotonic() + 90
    while len(found := readers(parent)) < count and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(found) == count
    return found


def _reads(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.name() == "pt_data_worker"  # torch's name for them
    except psutil.NoSuchProcess:
        return False
