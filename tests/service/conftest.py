"""A whole server in this process, on the simulator and an SQLite file, behind real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving

from service.composition import Service, build
from service.settings import BackendName, Settings
from worker.recording import Recording


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path / "state",
        data_root=tmp_path / "data",
        backend=BackendName.SIMULATOR,
        cpus=4.0,
        poll_interval=timedelta(milliseconds=1),
    )


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    built = build(settings)
    yield built
    built.close()


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    """A client of the service behind a real uvicorn on a free port of loopback."""
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def job() -> dict[str, Any]:
    """A job that the packaged recording can replay."""
    spec = Recording.packaged().job.model_dump(mode="json")
    spec["budget"] = {"max_trials": 6, "confirm_runs": 2, "parallel_trials": 2}
    return spec
