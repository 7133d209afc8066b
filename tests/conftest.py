"""What all tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from postgres import Postgres

ROOT = Path(__file__).parents[1]

# Before torch is imported anywhere: tests run beside each other on few cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's slots are as patient as can be by default, and would hardly get a turn beside other tests
os.environ.setdefault("RAY_worker_niceness", "0")


# Several processes share the files out in this order, so that none is left alone with one of these at the end
LONGEST_FIRST = (
    "tests/acceptance/test_kill.py",
    "tests/acceptance/test_cluster_of_two.py",
    "tests/acceptance/test_external_cluster.py",
    "tests/service/test_kept_in_bucket.py",
    "tests/core/recipes/test_large_recipes.py",
    "tests/acceptance/test_ranks.py",
    "tests/service/test_extend.py",
    "tests/service/test_recovery.py",
    "tests/worker/test_ray_ranks.py",
    "tests/worker/test_ray_backend.py",
    "tests/service/test_verbs.py",
    "tests/acceptance/test_topology.py",
    "tests/worker/test_ray_several_nodes.py",
    "tests/service/cli/test_cli_end_to_end.py",
    "tests/worker/test_ray_cluster.py",
    "tests/worker/test_streaming_slot.py",
    "tests/core/training/test_ranks.py",
    "tests/service/cli/test_cli_examples.py",
    "tests/service/test_tensorboard.py",
    "tests/service/access/test_sessions.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, and leaves all else as it is."""
    places = {ROOT / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


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
    raise _missing(f"FIXNORM_DATA_ROOT is {root!r}; these tests need the folder that holds cifar10/train/<class>/*.jpg")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for all tests that use it and leave it running."""
    from postgres import find_binaries, running  # only now: a laptop's part needs no driver

    binaries = find_binaries()
    if binaries is None:
        raise _missing("PostgreSQL's programs are not on this machine; Debian's package 'postgresql' has them")
    with running(binaries) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium without a window, the one of this machine.

    One for each file: Playwright keeps an event loop running in this thread, and tests of other files run their own.
    """
    from playwright.sync_api import sync_playwright  # only now: few tests look at pages

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise _missing("Chromium is not on this machine; Debian's package 'chromium' has it")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--disable-gpu"], timeout=180_000)
        yield opened
        opened.close()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """An empty PostgreSQL database of the test's own."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


def _missing(what: str) -> Exception:
    """Skips what a machine lacks; in CI that is a failure."""
    return pytest.fail.Exception(what) if os.environ.get("FIXNORM_CI") == "1" else pytest.skip.Exception(what)
