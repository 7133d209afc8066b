"""The server's own log, from a server process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fixnorm_core.spec import JobSpec
from service.client import Client


def test_lines_of_an_attempt_are_json_that_tells_job_trial_and_attempt(tmp_path: Path, job: dict[str, Any]) -> None:
    # The simulator's recording is of method fixnorm, so this job fails at its first trial.
    spec = JobSpec.model_validate({"name": "fails", "data": job["data"], "search": {"method": "weight_decay"}})
    url_file, log = tmp_path / "url", tmp_path / "log"
    options = ["--backend", "simulator", "--port", "0", "--state-dir", tmp_path / "state", "--url-file", url_file]
    command = [sys.executable, "-m", "service.cli.main", "serve", *map(str, options)]
    environment = {"FIXNORM_LOG_FORMAT": "json", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    with log.open("w") as out, subprocess.Popen(command, stderr=out, env=environment) as server:
        deadline = time.monotonic() + 90
        while not (url_file.exists() and url_file.read_text()):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        with Client(url_file.read_text().strip()) as client:
            ended = client.wait(client.submit(spec).id)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (failed,) = (line for line in lines if line["event"] == "attempt.failed")
    assert failed["level"] == "warning"
    assert (failed["job"], failed["trial"], failed["attempt"]) == (ended.id, 0, f"{ended.id}.0.1")
    assert "simulator replays" in failed["message"]
    assert {line["job"] for line in lines if line["event"] == "job.ended"} == {ended.id}
