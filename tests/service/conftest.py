"""A whole server in this process, on the simulator and a real database, behind real HTTP."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from serving import serving, simulated

from service.composition import Service, build
from service.settings import Settings
from worker.recording import Recording


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs what is marked ``both_databases`` once on each."""
    if "database_url" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_databases"):
        metafunc.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def server_log() -> Iterator[None]:
    """Sends the server's log to file descriptor 2 and not to ``sys.stdout``, which may be a command's at that moment.

    ``capfd`` tells a test what was logged. A test may start a server that sets its own log up: that is undone here.
    """
    console = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.processors.TimeStamper(), console],
        logger_factory=structlog.PrintLoggerFactory(sys.__stderr__),
    )
    root, handlers = logging.getLogger(), [*logging.getLogger().handlers]
    yield
    structlog.reset_defaults()
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)
    logging.getLogger("service").setLevel(logging.NOTSET)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: an SQLite file, or PostgreSQL's."""
    if getattr(request, "param", "sqlite") == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    (tmp_path / "state").mkdir()
    return f"sqlite:///{tmp_path / 'state' / 'fixnorm.db'}"


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return simulated(tmp_path, database_url=database_url)


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
