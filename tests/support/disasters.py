"""A server on real Ray with its database, all of which a test may kill: the server, its slots, PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

import psutil
from postgres import Postgres
from processes import ServerProcess

from service.client import Client
from service.client.errors import ProblemError, UnexpectedAnswerError
from service.schemas import TERMINAL_STATES, JobView

__all__ = ["Site", "slots_killed_at_random"]

_TICK_SECONDS = 0.1
_SLOT_DIES = 0.03


class Site:
    """One server that comes back after every kill, on an SQLite file or on a PostgreSQL of its own.

    Attributes:
        url: Of the database.
        orphans: Every process that a killed server has left behind.
    """

    def __init__(self, folder: Path, postgres: Postgres | None, **settings: Any) -> None:
        self.state_dir = folder / "state"
        self.url = postgres.create_database() if postgres else f"sqlite:///{self.state_dir / 'fixnorm.db'}"
        self.orphans: list[psutil.Process] = []
        self._postgres = postgres
        self._started_at = 0.0
        options = settings | {"database_url": self.url}
        self.server = ServerProcess("server", folder, state_dir=self.state_dir, backend="ray", **options)

    def start_server(self, *, seconds: float = 600.0) -> None:
        """Waits until it answers. It is started again while it cannot: the database is away, Ray is late."""
        deadline = time.monotonic() + seconds
        while not self.server.answers:
            if self.server.ended:
                self._started_at = time.time()
                self.server.start()
            assert time.monotonic() < deadline, self.server.log
            time.sleep(0.05)

    def kill_server(self) -> None:
        """Kills it with -9, and nothing else: what it had started has to notice by itself."""
        self.orphans += psutil.Process(self.server.pid).children(recursive=True)
        self.server.send(SIGKILL)

    def crash_database(self) -> None:
        """Stops PostgreSQL as a crash would."""
        assert self._postgres is not None
        self._postgres.stop(kill=True)

    def start_database(self) -> None:
        """Has it recover."""
        assert self._postgres is not None
        self._postgres.start()

    def slots(self) -> list[psutil.Process]:
        """The slots of the server that runs, warm ones too; none while it is down."""
        try:
            kin = psutil.Process(self.server.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [process for process in kin if _is_slot(process)]

    def trained_since(self, moment: float, job_id: str) -> bool:
        """Whether an epoch of a job has ended since the server was started, and since a moment."""
        trials = self.state_dir / "jobs" / job_id / "trials"
        try:
            saved = [file.stat().st_mtime for file in trials.glob("*/checkpoint-*.pt")]
        except FileNotFoundError:  # an older one goes when a newer one is there
            return False
        return max(saved, default=0.0) > max(moment, self._started_at)

    def wait(self, job_id: str, *, seconds: float = 480.0) -> JobView:
        """Until a job has ended."""
        deadline = time.monotonic() + seconds
        with Client(self.server.url) as client:
            while (view := client.job(job_id)).state not in TERMINAL_STATES:
                assert time.monotonic() < deadline, f"{view}\n{self.server.log}"
                time.sleep(0.3)
        return view

    def wait_until_it_answers(self, *, seconds: float = 30.0) -> None:
        """Until the server that runs reads its database again."""
        deadline = time.monotonic() + seconds
        with Client(self.server.url) as client:
            while True:
                try:
                    client.jobs(limit=1)
                    return
                except (ProblemError, UnexpectedAnswerError):
                    assert time.monotonic() < deadline, self.server.log
                    time.sleep(0.05)


@contextmanager
def slots_killed_at_random(site: Site, job_id: str, random: Random, *, at_most: int) -> Iterator[list[int]]:
    """Kills slots with -9, each with probability 0.03 per second of a clock that runs ten times too fast.

    The clock of a slot runs from its first epoch on: else nearly all would die while they import PyTorch.

    Yields:
        The processes killed so far.
    """
    killed: list[int] = []
    over = threading.Event()

    def strike() -> None:
        last = 0.0
        while not over.wait(_TICK_SECONDS) and len(killed) < at_most:
            if not site.trained_since(last, job_id) or random.random() >= _SLOT_DIES:
                continue
            for slot in site.slots()[:1]:
                with suppress(psutil.NoSuchProcess):
                    last = time.time()
                    slot.kill()
                    killed.append(slot.pid)

    thread = threading.Thread(target=strike, name="slot killer")
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def _is_slot(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith("ray::Slot")
    except psutil.NoSuchProcess:
        return False
