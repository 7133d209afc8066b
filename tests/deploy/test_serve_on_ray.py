"""The script that a server's container runs: its Ray node and the server begin and end together."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deployment import DEPLOY
from waiting import wait_until

from service.settings import SECRETS

Start = Callable[..., "subprocess.Popen[str]"]

_WAITS = 'trap "echo stopped >> $LOG; exit 0" TERM\nwhile :; do sleep 0.05; done\n'


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runs the script with stand-ins for Ray and the server, which say what they were given."""

    def run(*, node: str = _WAITS, server: str = _WAITS, **given: str) -> subprocess.Popen[str]:
        for name, body in (("ray", node), ("fixnorm-tune", server)):
            program = tmp_path / name
            log = tmp_path / f"{name}.log"
            program.write_text(f'#!/bin/bash\nLOG={log}\nenv > {log}.env\necho "$@" >> $LOG\n{body}')
            program.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | given
        process = subprocess.Popen(
            [DEPLOY / "docker" / "serve-on-ray", "--port=1"], env=environment, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    started: list[subprocess.Popen[str]] = []
    yield run
    for process in started:
        process.kill()
        process.communicate()


def said(folder: Path, program: str) -> list[str]:
    log = folder / f"{program}.log"
    return log.read_text().splitlines() if log.exists() else []


def both_run(folder: Path) -> None:
    wait_until(lambda: bool(said(folder, "ray") and said(folder, "fixnorm-tune")))


def test_when_it_is_stopped_the_server_ends_first_and_once_then_its_node(start: Start, tmp_path: Path) -> None:
    process = start(RAY_ADDRESS="head:1")
    both_run(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert said(tmp_path, "fixnorm-tune") == ["serve --port=1", "stopped"]
    assert [line.split()[0] for line in said(tmp_path, "ray")] == ["start", "stopped"]
    assert "--address=head:1" in said(tmp_path, "ray")[0]


def test_when_its_node_ends_the_server_is_stopped_and_that_is_a_failure(start: Start, tmp_path: Path) -> None:
    wait = f"until [ -e {tmp_path}/fixnorm-tune.log.env ]; do sleep 0.05; done; sleep 0.2\n"
    process = start(node=wait, RAY_ADDRESS="head:1")
    assert process.wait(30) == 1
    assert said(tmp_path, "fixnorm-tune") == ["serve --port=1", "stopped"]
    assert process.stderr is not None
    assert "the server's Ray node has ended" in process.stderr.read()


def test_when_the_server_ends_so_does_its_node_and_its_status_is_told(start: Start, tmp_path: Path) -> None:
    wait = f"until [ -e {tmp_path}/ray.log ]; do sleep 0.05; done; sleep 0.2\n"
    process = start(server=f"{wait}exit 3\n", RAY_ADDRESS="head:1")
    assert process.wait(30) == 3
    assert said(tmp_path, "ray")[-1] == "stopped"


def test_the_node_is_told_no_secret_of_the_server(start: Start, tmp_path: Path) -> None:
    hidden = [
        *SECRETS,
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ]
    process = start(RAY_ADDRESS="head:1", RAY_AUTH_TOKEN="ours", **dict.fromkeys(hidden, "secret"))
    both_run(tmp_path)
    process.terminate()
    process.wait(30)
    assert "secret" not in (tmp_path / "ray.log.env").read_text()
    assert "RAY_AUTH_TOKEN=ours" in (tmp_path / "ray.log.env").read_text()
    assert (tmp_path / "fixnorm-tune.log.env").read_text().count("secret") == len(hidden)


def test_without_an_address_it_says_what_is_missing(start: Start) -> None:
    process = start()
    assert process.wait(30) != 0
    assert process.stderr is not None
    assert "RAY_ADDRESS: is not set" in process.stderr.read()
