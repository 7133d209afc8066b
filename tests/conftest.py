"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported anywhere: tests run beside each other on few cores
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test of the GPU is skipped with a reason where there is none, and fails where one was promised."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch  # only now: most tests of a laptop's part need no torch

    if torch.cuda.is_available():
        return
    missing = "needs a CUDA GPU, and torch sees none here; `make gpu` runs it on a machine that has one"
    if os.environ.get("FIXNORM_GPU") == "1":
        pytest.fail(f"FIXNORM_GPU is 1, and this test {missing}")
    pytest.skip(missing)


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
