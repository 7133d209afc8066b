"""A Ray cluster of small nodes, as an operator would start one: there before a server, and after it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

_MEBIBYTE = 2**20


class RayNode:
    """A node that joins a head's cluster."""

    def __init__(self, head: RayHead, name: str, *, cpus: int) -> None:
        self.name = name
        command = [f"--address={head.environment['RAY_ADDRESS']}", f"--node-name={name}", f"--num-cpus={cpus}"]
        self._process = head.run_ray(command, name)

    def kill(self) -> None:
        """All of it at once, as when its machine loses power."""
        _kill(self._process)


class RayHead:
    """A head on a port of its own, which stays the same when it is started again."""

    def __init__(self, *, cpus: int) -> None:
        self._cpus = cpus
        self._folder = Path(tempfile.mkdtemp(prefix="fixnorm-ray-"))  # short: the path of a socket has 107 bytes
        token = self._folder / "token"
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.environment = {
            "RAY_ADDRESS": f"127.0.0.1:{self._port}",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._nodes: list[RayNode] = []

    def start(self, *, seconds: float = 180.0) -> None:
        """Starts it and waits until it answers."""
        options = ["--head", f"--port={self._port}", f"--num-cpus={self._cpus}", f"--temp-dir={self._folder}"]
        options += ["--include-dashboard=false", "--no-monitor"]  # nothing scales this cluster
        self._process = self.run_ray(options, "head", seconds=seconds)

    def join(self, name: str, *, cpus: int) -> RayNode:
        """Has another node join, and waits until it has."""
        self._nodes.append(RayNode(self, name, cpus=cpus))
        return self._nodes[-1]

    def run_ray(self, options: list[str], name: str, *, seconds: float = 180.0) -> subprocess.Popen[bytes]:
        """``ray start`` with these options, once it says that it runs."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        command += [f"--object-store-memory={100 * _MEBIBYTE}", "--include-log-monitor=false"]  # nobody reads its logs
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        environment["RAY_prestart_worker_first_driver"] = "0"  # as of a Ray that a server starts
        environment["RAY_AUTH_MODE"] = "token"  # Ray's default, which whoever joins has to find out
        log = self._folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        deadline = time.monotonic() + seconds
        while "Ray runtime started" not in log.read_text(encoding="utf-8"):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.1)
        return process

    def slots(self) -> set[int]:
        """The processes of slots that live on it."""
        found = set()
        for process in self._family():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if command and command[0].startswith("ray::Slot"):
                found.add(process.pid)
        return found

    def kill(self) -> None:
        """All of it at once, as when its machine loses power."""
        if self._process is not None:
            _kill(self._process)

    def remove(self) -> None:
        """Leaves nothing behind."""
        for node in self._nodes:
            node.kill()
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _family(self) -> list[psutil.Process]:
        return _family(self._process) if self._process is not None else []


@contextmanager
def started_head(*, cpus: int) -> Iterator[RayHead]:
    """A head that ends with the context, with all that runs on it."""
    head = RayHead(cpus=cpus)
    try:
        head.start()
        yield head
    finally:
        head.remove()


@contextmanager
def joined_head(*, cpus: int, auth_mode: str | None = None) -> Iterator[RayHead]:
    """A head whose cluster this process, and what it starts, joins.

    Args:
        cpus: Of its node.
        auth_mode: ``RAY_AUTH_MODE`` here; None leaves it to whoever joins to find out.
    """
    with started_head(cpus=cpus) as head, pytest.MonkeyPatch.context() as patched:
        for name, value in head.environment.items():
            patched.setenv(name, value)
        if auth_mode is not None:
            patched.setenv("RAY_AUTH_MODE", auth_mode)
        yield head


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """A process and all that it has started, at once."""
    _kill(process)


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    if process.poll() is not None:
        return []
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def _kill(process: subprocess.Popen[bytes]) -> None:
    family = _family(process)
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=60)
    process.wait(60)
