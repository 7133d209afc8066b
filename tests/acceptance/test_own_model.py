"""The example of a model and a data set of one's own, as its page says, on real Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ServerProcess

from fixnorm_core.jobfile import load_job_file
from fixnorm_core.reach import Reach
from fixnorm_core.training.evaluate import evaluate_weights
from service.client import Client
from service.schemas import JobState

pytestmark = pytest.mark.ray

EXAMPLE = Path(__file__).parents[2] / "examples" / "own"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))
    started = ServerProcess(
        "server", tmp_path, state_dir=tmp_path / "state", backend="ray", cpus=1, allowed_modules="my_models"
    )
    try:
        started.start()
        started.wait()
        yield started
    finally:
        started.stop()


def test_the_example_is_tuned_and_its_weights_are_loaded_again(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_job_file(EXAMPLE / "job.yaml")
    with Client(server.url) as client:
        view = client.wait(client.submit(job).id)
        assert view.state is JobState.SUCCEEDED, view.reason
        best = client.best(view.id)
        assert best.test is not None
        assert best.test.accuracy > 0.5  # chance is a third
        weights = client.download_weights(view.id, to=tmp_path / "weights.safetensors")
        missing = job.model_copy(update={"model": job.model.model_copy(update={"name": "my_models.none:build"})})
        failed = client.wait(client.submit(missing).id)
        assert failed.state is JobState.FAILED
        assert "cannot be imported on the worker" in failed.reason
        assert "my_models.none" in failed.reason
    monkeypatch.syspath_prepend(EXAMPLE)
    assert evaluate_weights(weights, split="test", reach=Reach(modules=("my_models",))).overall == best.test


def test_a_file_that_came_with_a_job_is_found_again_after_the_server_was_killed(tmp_path: Path) -> None:
    options = {"state_dir": tmp_path / "state", "backend": "ray", "cpus": 1, "allow_code": True}
    sent = tmp_path / "sent.py"
    sent.write_text((EXAMPLE / "my_models.py").read_text())
    server = ServerProcess("server", tmp_path, **options)
    try:
        server.start()
        server.wait()
        command = [sys.executable, "-m", "service.cli.main", "submit", "--server", server.url, "--code", str(sent)]
        command += ["--model", "code:build", "--dataset", "code:stripes", "--epochs", "2", "--trials", "3"]
        command += [
            "--parallel",
            "1",
            "--set",
            "budget.confirm_runs=0",
            "--set",
            "budget.stop_early=false",
            "-o",
            "json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        sent.unlink()
        with Client(server.url) as client:
            (job,) = client.jobs()
            assert job.spec.code is None
            deadline = time.monotonic() + 180
            while client.job(job.id).progress.finished < 1:
                assert time.monotonic() < deadline, client.job(job.id)
                time.sleep(0.1)
        server.send(signal.SIGKILL)
        server.start()
        server.wait()
        with Client(server.url) as client:
            view = client.wait(job.id)
            assert view.state is JobState.SUCCEEDED, view.reason
            assert client.best(job.id).test is not None
    finally:
        server.stop()
