"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported anywhere: tests run beside each other on few cores
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """The data root that holds ``cifar10/train/<class>/NNNN.jpg`` and ``cifar10/test/...``."""
    root = os.environ.get("FIXNORM_DATA_ROOT")
    if root and (Path(root) / "cifar10" / "train").is_dir():
        return Path(root)
    missing = f"FIXNORM_DATA_ROOT is {root!r}; these tests need the folder that holds cifar10/train/<class>/*.jpg"
    if os.environ.get("FIXNORM_CI") == "1":
        pytest.fail(missing)
    pytest.skip(missing)
