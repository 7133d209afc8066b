"""A person at a terminal, who types what a page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment_with_program(folder: Path) -> dict[str, str]:
    """This process' environment, with ``fixnorm-tune`` of this checkout among the programs and no token, nor login."""
    program = folder / "bin" / "fixnorm-tune"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m service.cli.main "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    for name in ("FIXNORM_TOKEN", "FIXNORM_SERVER", "FIXNORM_STATE_DIR"):
        environment.pop(name, None)
    return environment


class Terminal:
    """Runs lines in a folder, one after the other; what is exported stays, and servers run on until :meth:`close`.

    A server gets a free port and the simulator instead of Ray; the lines after it reach that server.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.environment = folder, environment_with_program(folder) | environment
        self.typed: list[str] = []
        self._servers: list[subprocess.Popen[bytes]] = []

    def type(self, line: str) -> str:
        """Runs a line by a shell and returns what it prints to stdout; it must end well.

        Of a server, that is the address.
        """
        line = line.removeprefix("$ ")
        self.typed.append(line)
        if line.startswith("export "):
            return self._export(line)
        if re.search(r"fixnorm-tune serve\b", line):
            return self._serve(line)
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        # A machine may lack something; that is what doctor is asked for
        assert done.returncode in ((0, 1) if "fixnorm-tune doctor" in line else (0,)), (line, done.stdout, done.stderr)
        assert "INFO" not in done.stderr, (line, done.stderr)  # that would be a library's log
        return done.stdout

    def _export(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", f"{line}\nenv -0"], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, (line, done.stderr)
        self.environment = dict(each.split("=", 1) for each in done.stdout.split("\0") if each)
        return ""

    def _serve(self, line: str) -> str:
        self.close()
        address, log = self.folder / "server.url", self.folder / "server.log"
        command = line.partition(" #")[0] + f" --port 0 --backend simulator --url-file {address}"
        command = re.sub(r"(?<!\S)fixnorm-tune ", "exec fixnorm-tune ", command)
        command = re.sub(r"^((?:\w+=\S+ )+)exec ", r"export \1; exec ", command)
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["bash", "-c", command], cwd=self.folder, env=self.environment, stdout=file, stderr=file
            )
        self._servers.append(process)
        deadline = time.monotonic() + 180
        while not address.exists():
            assert process.poll() is None, (line, log.read_text("utf-8"))
            assert time.monotonic() < deadline, (line, log.read_text("utf-8"))
            time.sleep(0.05)
        self.environment["FIXNORM_SERVER"] = address.read_text("utf-8").strip()
        return self.environment["FIXNORM_SERVER"]

    def close(self) -> None:
        """Ends the server, as one does who has read enough."""
        for process in self._servers:
            process.terminate()
            assert process.wait(120) == 0
        self._servers.clear()
