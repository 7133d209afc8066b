"""A whole server in this process, on the simulator and a real database, behind real HTTP."""

from __future__ import annotations

import logging
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
from serving import serving, simulated
from sqlalchemy import create_engine, pool, update

from service.administration import upgrade_database
from service.composition import Service, build
from service.database.rows import LeaseRow
from service.settings import Settings
from worker.recording import Recording

if TYPE_CHECKING:
    from postgres import Postgres


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs what is marked ``both_databases`` once on each."""
    if "database_name" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_databases"):
        metafunc.parametrize("database_name", ["sqlite", "postgresql"], indirect=True)


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
def database_name(request: pytest.FixtureRequest) -> str:
    """Of the software: ``sqlite`` unless the test is run on each."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database_name: str, tmp_path: Path) -> str:
    """An empty database: an SQLite file, or PostgreSQL's."""
    if database_name == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    (tmp_path / "state").mkdir()
    return f"sqlite:///{tmp_path / 'state' / 'fixnorm.db'}"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with all tables and nothing in them, to be copied."""
    file = tmp_path_factory.mktemp("template") / "fixnorm.db"
    upgrade_database(Settings(database_url=f"sqlite:///{file}"))
    return file


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    """The same in PostgreSQL."""
    url = postgres.create_database()
    upgrade_database(Settings(database_url=url))
    return url


@pytest.fixture
def migrated_url(request: pytest.FixtureRequest, database_name: str, tmp_path: Path) -> Iterator[str]:
    """A database of the test's own with all tables, which a server would otherwise take half of its start to make."""
    if database_name == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.create_database(like=request.getfixturevalue("postgres_template"))
        set_deployment(url)
        yield url
        postgres.drop_database(url)
    else:
        (tmp_path / "state").mkdir()
        file = shutil.copyfile(request.getfixturevalue("sqlite_template"), tmp_path / "state" / "fixnorm.db")
        set_deployment(f"sqlite:///{file}")
        yield f"sqlite:///{file}"


def set_deployment(url: str) -> None:
    """What tells a database from others is drawn when its tables are made, and again for a copy of them."""
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.begin() as connection:
        connection.execute(update(LeaseRow).values(deployment=secrets.token_hex(8)))


@pytest.fixture
def settings(tmp_path: Path, migrated_url: str) -> Settings:
    return simulated(tmp_path, database_url=migrated_url)


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
