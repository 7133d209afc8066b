"""The services of ``docker-compose.yml`` without Docker: its commands and variables, as processes beside each other.

What differs is what containers would keep apart: addresses, ports, folders; and nodes get one CPU each. Programs are
found on the PATH, as in an image.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import kill_family
from deployment import DEPLOY, compose, interpolated

_SECRETS = ("POSTGRES_PASSWORD", "RAY_AUTH_TOKEN", "FIXNORM_ADMIN_TOKEN", "GRAFANA_PASSWORD")


class Topology:
    """All services share one set of secrets, one state folder and one database."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.secrets = {name: secrets.token_hex(32) for name in _SECRETS}
        self._services = interpolated(compose()["services"], self.secrets)
        self._database_url = database_url
        self._folder = folder
        self._ray_folder = Path(tempfile.mkdtemp(prefix="fixnorm-top-"))  # short: the path of a socket has 107 bytes
        self._ray_port, *self._ports = _free_ports(3)
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str, name: str, *, server: int = 0) -> None:
        """A container of a service, in the background; ``server`` counts those with a port."""
        command = [self._word(word, server) for word in self._services[service]["command"]]
        if service == "ray-head":
            command.append(f"--temp-dir={self._ray_folder}")
        if service == "ray-worker":
            command += ["--num-cpus=1", f"--node-name={name}"]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._started[name] = subprocess.Popen(
                _found(command), env=self.environment(service), stdout=log, stderr=log, cwd=self._folder
            )

    def run(self, service: str, *command: str) -> str:
        """What a command says in a container of a service; the service's own command if none is given."""
        words = list(command or self._services[service]["command"])
        done = subprocess.run(
            _found(words), env=self.environment(service), capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait(self, service: str, name: str, *, server: int = 0, seconds: float = 240.0) -> None:
        """Until a container is as healthy as its health check wants it."""
        check = [self._word(word, server) for word in self._services[service]["healthcheck"]["test"][1:]]
        self._until(
            lambda: (
                not subprocess.run(
                    _found(check), env=self.environment(service), capture_output=True, check=False
                ).returncode
            ),
            service,
            name,
            server,
            seconds,
        )

    def wait_for_node(self, service: str, name: str, *, server: int = 0, seconds: float = 240.0) -> None:
        """Until a Ray node says that it runs; what health checks ask, the head or the server, answers before."""
        self._until(lambda: "Ray runtime started" in self.log(name), service, name, server, seconds)

    def _until(self, so: Callable[[], bool], service: str, name: str, server: int, seconds: float) -> None:
        """A container that ends meanwhile is started again: Ray's nodes give up after 30 s on a busy machine."""
        assert self._services[service]["restart"] == "unless-stopped"
        deadline = time.monotonic() + seconds
        while not so():
            if self._started[name].poll() is not None:
                self.start(service, name, server=server)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.5)

    def environment(self, service: str) -> dict[str, str]:
        """Of a container: what the compose file says, and of this process no more than where programs are."""
        given = dict(self._services[service]["environment"])
        if "FIXNORM_DATABASE_URL" in given:
            given["FIXNORM_DATABASE_URL"] = self._database_url
        if "RAY_ADDRESS" in given:
            given["RAY_ADDRESS"] = f"127.0.0.1:{self._ray_port}"
        folders = {"FIXNORM_STATE_DIR": "state", "FIXNORM_DATA_ROOT": "data", "FIXNORM_DATA_CACHE": "cache"}
        folders["FIXNORM_SCRATCH"] = "cache/trials"
        for variable, folder in folders.items():
            if variable in given:
                given[variable] = str(self._folder / folder)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # Ray's slots are as patient as can be by default, and would hardly get a turn beside other tests
        few = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        return {"PATH": path, "HOME": str(self._folder)} | few | given

    def url(self, server: int) -> str:
        """Where a server is reached."""
        return f"http://127.0.0.1:{self._ports[server]}"

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """A container's first process."""
        return self._started[name]

    def kill(self, name: str) -> None:
        """A container with all that runs in it, as when its machine loses power."""
        kill_family(self._started[name])

    def log(self, name: str) -> str:
        """What a container has said."""
        return (self._folder / f"{name}.log").read_text(encoding="utf-8")

    def remove(self) -> None:
        """Leaves nothing behind."""
        for process in reversed(self._started.values()):
            kill_family(process)
        shutil.rmtree(self._ray_folder, ignore_errors=True)

    def _word(self, word: str, server: int) -> str:
        for theirs, ours in (
            ("ray-head:6379", f"127.0.0.1:{self._ray_port}"),
            ("--port=6379", f"--port={self._ray_port}"),
        ):
            word = word.replace(theirs, ours)
        return word.replace("8780", str(self._ports[server]))


def submit(topology: Topology, url: str, token: str, *options: str) -> str:
    """The id of a job that the command line submits from a machine that knows an address and a token only."""
    command = _found(["fixnorm-tune", "submit", f"--server={url}", "--output=json", *options])
    environment = {"PATH": os.environ["PATH"], "FIXNORM_TOKEN": token, "HOME": topology.environment("migrate")["HOME"]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return str(answer["id"])


def _found(command: list[str]) -> list[str]:
    """With the program's path: beside this Python, or among the images' scripts."""
    program = shutil.which(command[0], path=f"{Path(sys.executable).parent}:{DEPLOY / 'docker'}")
    assert program is not None, command[0]
    return [program, *command[1:]]


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports
