"""``fixnorm-tune database upgrade``: safe to run again, from several processes at once, and after one was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from waiting import wait_until

from service.administration import upgrade_database
from service.database.migrate import check, upgrade
from service.database.postgres import one_at_a_time
from service.settings import Settings

NOW, WAS = "True\n", "False\n"
_COMMAND = """
from service.administration import upgrade_database  # what the command calls, without all that a server needs
from service.settings import Settings
print(upgrade_database(Settings()))
"""


Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command on a database."""
    started: list[subprocess.Popen[str]] = []

    def run(url: str) -> subprocess.Popen[str]:
        environment = os.environ | {"FIXNORM_DATABASE_URL": url, "FIXNORM_STATE_DIR": str(tmp_path / "state")}
        command = [sys.executable, "-c", _COMMAND]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=environment, text=True, **pipes))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ends(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.mark.both_databases
@pytest.mark.parametrize("revision", [None, "0003"], ids=["empty", "old"])
def test_of_two_at_once_one_does_it_and_both_succeed(database_url: str, start: Start, revision: str | None) -> None:
    if revision is not None:
        upgrade(database_url, revision=revision)
    said = [ends(process) for process in [start(database_url) for _ in range(2)]]
    assert sorted(said) == sorted([NOW, WAS])
    check(database_url)
    assert not upgrade_database(Settings(database_url=database_url))


def test_they_wait_for_one_another_and_not_for_one_that_was_killed(postgres_url: str, start: Start) -> None:
    engine = create_engine(postgres_url)

    def waiting() -> int:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        with engine.connect() as connection:
            return int(connection.scalar(text(query)) or 0)

    with one_at_a_time(postgres_url):  # as the first of them would hold it
        processes = [start(postgres_url) for _ in range(3)]
        wait_until(lambda: waiting() == 3, seconds=300)
        processes[0].kill()  # PostgreSQL finds out when it would give it the lock
        processes[0].communicate()
        assert all(process.poll() is None for process in processes[1:])
    assert sorted(ends(process) for process in processes[1:]) == sorted([NOW, WAS])
    engine.dispose()
    check(postgres_url)
