"""``submit --watch`` against a real server that is killed under it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import yaml
from processes import ServerProcess

from worker.recording import Recording


def test_a_watched_submission_outlasts_the_death_of_its_server_and_tells_nothing_twice(tmp_path: Path) -> None:
    spec = Recording.packaged().job.model_dump(mode="json", exclude_defaults=True)
    spec["search"] = {"sampler": "random"}
    spec["budget"] = {"max_trials": 4, "confirm_runs": 0, "parallel_trials": 1}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(spec))
    state_dir = tmp_path / "state"
    first = ServerProcess("first", tmp_path, state_dir=state_dir, epoch_seconds=0.1)
    first.start()
    first.wait()
    second = ServerProcess(
        "second", tmp_path, state_dir=state_dir, port=httpx.URL(first.url).port or 0, epoch_seconds=0.1
    )
    command = [sys.executable, "-m", "service.cli.main", "submit", str(file), "--watch"]
    environment = os.environ | {"FIXNORM_SERVER": first.url}
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as watching:
            assert watching.stdout
            told = []
            for line in watching.stdout:
                told.append(line.strip())
                if line.startswith("trial 1 started"):
                    first.send(signal.SIGKILL)
                    second.start()
            errors = watching.stderr.read() if watching.stderr else ""
            assert (watching.wait(), errors) == (0, ""), told
    finally:
        first.stop()
        second.stop()
    away = next(number for number, line in enumerate(told) if line.endswith("trying again for two minutes"))
    assert told.index("the server answers again") > away
    for number in range(4):
        assert sum(line.startswith(f"trial {number} finished") for line in told) == 1
    assert any(line.startswith("Best point of job ") for line in told)
