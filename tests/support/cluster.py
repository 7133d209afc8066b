"""A Ray cluster of one small node, as an operator would start one: there before a server, and after it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

_MEBIBYTE = 2**20


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

    def start(self, *, seconds: float = 180.0) -> None:
        """Starts it and waits until it answers."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--port={self._port}", f"--num-cpus={self._cpus}", f"--temp-dir={self._folder}"]
        command += ["--include-dashboard=false", f"--object-store-memory={100 * _MEBIBYTE}"]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        environment["RAY_AUTH_MODE"] = "token"  # Ray's default, which whoever joins has to find out
        log = self._folder / "log"
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        deadline = time.monotonic() + seconds
        while "Ray runtime started" not in log.read_text(encoding="utf-8"):
            assert self._process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.1)

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
        family = self._family()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=60)
        if self._process is not None:
            self._process.wait(60)

    def remove(self) -> None:
        """Leaves nothing behind."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _family(self) -> list[psutil.Process]:
        if self._process is None or self._process.poll() is not None:
            return []
        head = psutil.Process(self._process.pid)
        return [head, *head.children(recursive=True)]
