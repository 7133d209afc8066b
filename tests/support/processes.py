"""``fixnorm-tune serve`` as processes of their own, to be killed, suspended and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx


class ServerProcess:
    """One server, on the simulator unless told otherwise; its log and address lie in ``folder``."""

    def __init__(
        self, name: str, folder: Path, *, state_dir: Path, backend: str = "simulator", port: int = 0, **settings: Any
    ) -> None:
        self._url_file = folder / f"{name}.url"
        self._log = folder / f"{name}.log"
        self._command = [sys.executable, "-m", "service.cli.main", "serve", "--port", str(port), "--backend", backend]
        self._command += ["--state-dir", str(state_dir), "--url-file", str(self._url_file)]
        self._environment = os.environ | {f"FIXNORM_{key.upper()}": str(value) for key, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; :meth:`wait` waits until it answers."""
        self._url_file.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    def wait(self, *, seconds: float = 180.0) -> None:
        """Until it answers."""
        deadline = time.monotonic() + seconds
        while not self._url_file.exists():
            assert self._process is not None
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    @property
    def answers(self) -> bool:
        """Whether it has begun to."""
        return not self.ended and self._url_file.exists()

    @property
    def ended(self) -> bool:
        """Whether there is no process any more."""
        return self._process is None or self._process.poll() is not None

    @property
    def url(self) -> str:
        """Its address."""
        return self._url_file.read_text(encoding="utf-8").strip()

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(encoding="utf-8")

    @property
    def leads(self) -> bool:
        """Whether it is the one that dispatches."""
        return bool(httpx.get(f"{self.url}/healthz", timeout=60).json()["dispatching"])

    def send(self, number: signal.Signals) -> None:
        """Sends a signal; a killed process is waited for."""
        assert self._process is not None
        self._process.send_signal(number)
        if number is signal.SIGKILL:
            self._process.wait(60)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Itself, which answers, and ends with the context."""
        try:
            self.start()
            self.wait()
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends it as an operator would, or what is left of it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            assert self._process.wait(60) == 0, self.log


@contextmanager
def running_server(folder: Path, **settings: Any) -> Iterator[str]:
    """The address of a server on the simulator, which ends with the context."""
    with ServerProcess("server", folder, state_dir=folder / "state", **settings).running() as process:
        yield process.url
