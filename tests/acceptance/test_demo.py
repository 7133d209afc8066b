"""What ``make demo`` runs, with a smaller job: a server on real Ray, a job to its end, and nothing left running."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest
from terminal import ROOT, environment_with_program

pytestmark = pytest.mark.ray

JOB = """\
name: small
model: {name: small_resnet, options: {width: 8}}
training: {epochs: 2}
budget: {max_trials: 2, confirm_runs: 0, stop_early: false}
"""


@pytest.mark.parametrize(
    ("job", "status", "said"),
    [(JOB, 0, "Best point of job "), (JOB.replace("epochs: 2", "epochs: none"), 2, "training.epochs")],
    ids=["tuned", "refused"],
)
def test_the_demo_ends_as_its_job_does_and_stops_its_server(job: str, status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(job, encoding="utf-8")
    environment = environment_with_program(tmp_path) | {"BIN": str(tmp_path / "bin"), "JOB": "job.yaml"}
    done = subprocess.run(
        ["sh", str(ROOT / "examples" / "demo.sh")], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    assert said in done.stdout + done.stderr
    assert "the server stops now" in done.stdout
    # Ray's processes run where the server did
    assert not [each for each in psutil.process_iter(["cwd"]) if Path(each.info["cwd"] or "/").is_relative_to(tmp_path)]
