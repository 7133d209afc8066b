"""A folder laid out as ImageNet is, of images that this file makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

TRAIN, VALIDATION = 12, 4


@pytest.fixture(scope="session")
def tiny_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of colour JPEGs of many sizes, in ``train/`` and ``val/``."""
    root = tmp_path_factory.mktemp("imagenet")
    random = np.random.default_rng(0)
    for label, name in enumerate(("n01440764", "n02102040", "n03888257")):
        for split, count in (("train", TRAIN), ("val", VALIDATION)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = scene(label, random=random)
                Image.fromarray(pixels).save(folder / f"{name}_{index}.JPEG", quality=90)
    return root


def scene(label: int, *, random: np.random.Generator) -> NDArray[np.uint8]:
    """A shaded ground with a coloured disc on it, under a grating whose direction is the class; sensor noise on top."""
    height, width = random.integers(70, 140, size=2)
    rows, columns = np.mgrid[0:height, 0:width] / 20
    angle = label * np.pi / 3 + random.normal(0, 0.1)
    grating = np.sin(6 * (rows * np.sin(angle) + columns * np.cos(angle)) + random.uniform(0, 6))
    ground = random.uniform(60, 160, size=3) + 15 * columns[..., None] * random.uniform(-1, 1, size=3)
    centre = random.uniform(1, 3, size=2)
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < random.uniform(0.5, 2)
    pixels = ground + 40 * grating[..., None] + disc[..., None] * random.uniform(-80, 80, size=3)
    noisy = pixels + random.normal(0, 8, size=pixels.shape)
    return np.asarray(noisy.clip(0, 255), dtype=np.uint8)
