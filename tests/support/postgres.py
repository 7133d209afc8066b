"""A throw-away PostgreSQL server: its own folder, a unix socket in it, gone at the end."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, make_url

# Nothing in here outlives the machine, so nothing has to reach the disk; commits outlive a killed server all the same.
_FAST = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}


def find_binaries() -> Path | None:
    """The folder that holds ``initdb`` and ``postgres``: of the PATH, or where Debian keeps them; None without one."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


@contextmanager
def running(binaries: Path) -> Iterator[Postgres]:
    """A server that answers, and is gone afterwards."""
    server = Postgres(binaries)
    try:
        server.start()
        yield server
    finally:
        server.remove()


class Postgres:
    """One server. It is stopped, killed and started again as often as a test likes; its databases stay."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._as_user = _unprivileged()
        self._folder = Path(tempfile.mkdtemp(prefix="fixnorm-pg-"))  # short: the path of a socket has 107 bytes
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count()
        if "user" in self._as_user:
            os.chown(self._folder, self._as_user["user"], self._as_user["group"])
        options = ["--username=fixnorm", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        command = [self._binaries / "initdb", f"--pgdata={self._folder / 'data'}", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **self._as_user)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        command = [self._binaries / "postgres", "-D", self._folder / "data", "-k", self._folder, "-h", ""]
        for name, value in _FAST.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd="/", preexec_fn=_end_with_parent, **self._as_user
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> None:
        """Stops it and cuts all connections; ``kill`` as a crash of it would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if kill else signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        """Stops it for good."""
        self.stop()
        shutil.rmtree(self._folder)

    def create_database(self, *, like: str | None = None) -> str:
        """The URL of a new database: an empty one, or a copy of that at another URL, which nobody uses just now."""
        name = f"test_{next(self._names)}"
        template = make_url(like).database if like is not None else "template1"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        url = URL.create("postgresql+psycopg", "fixnorm", database=name, query={"host": str(self._folder)})
        return url.render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        """Removes a database, and whatever still uses it."""
        with self._connect() as connection:
            connection.execute(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self._folder), user="fixnorm", dbname="postgres", autocommit=True)


def _end_with_parent() -> None:
    """Has Linux end this process when the tests are killed, which then cannot end it themselves."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG


def _unprivileged() -> dict[str, Any]:
    """Whom to run as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise AssertionError("PostgreSQL does not run as root, and there is neither a user 'postgres' nor 'nobody' here")
