"""A real job: CIFAR-10 images, HTTP, Optuna, Ray, and weights that are what the server says they are."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import optuna
import pytest

from fixnorm_core.spec import BudgetSpec, DataSpec, JobSpec, ModelSpec, TrainingSpec
from service.client import Client
from service.schemas import JobState, TrialState

pytestmark = [pytest.mark.ray, pytest.mark.cifar10]


@contextmanager
def serving(state_dir: Path, data_root: Path) -> Iterator[str]:
    """A server process of its own, with its own Ray; its address."""
    url_file = state_dir.with_suffix(".url")
    command = [sys.executable, "-m", "service.cli.main", "serve", "--port", "0", "--cpus", "2"]
    command += ["--state-dir", str(state_dir), "--data-root", str(data_root), "--url-file", str(url_file)]
    log = state_dir.with_suffix(".log")
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as server:
        try:
            deadline = time.monotonic() + 120
            while not url_file.exists():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield url_file.read_text().strip()
        finally:
            server.terminate()
            assert server.wait(60) == 0, log.read_text()


@pytest.fixture
def job() -> JobSpec:
    return JobSpec(
        name="cifar10 subset",
        model=ModelSpec(options={"width": 8}),
        data=DataSpec(
            name="imagefolder", path="cifar10", shift=4, train_limit=1000, validation_limit=500, test_limit=500
        ),
        training=TrainingSpec(epochs=3),
        budget=BudgetSpec(max_trials=4, confirm_runs=1, parallel_trials=2),
    )


def test_the_recorded_accuracies_are_those_of_the_saved_weights(
    job: JobSpec, cifar10_root: Path, tmp_path: Path
) -> None:
    from fixnorm_core.training.evaluate import evaluate_weights

    with serving(tmp_path / "state", cifar10_root) as url, Client(url) as client:
        view = client.wait(client.submit(job).id)
        assert view.state is JobState.SUCCEEDED, view.reason
        trials = {trial.number: trial for trial in client.trials(view.id)}
        assert sum(trial.state is TrialState.COMPLETE for trial in trials.values()) >= 3
        best = client.best(view.id)
        assert best.test is not None
        fetched = client.download_weights(view.id, to=tmp_path / "weights.safetensors")
        studies = httpx.get(f"{url}/api/studies").json()
        assert [study["study_name"] for study in studies["study_summaries"]] == [view.id]
        page = httpx.get(f"{url}{view.dashboard}")
        assert (page.status_code, "html" in page.headers["content-type"]) == (200, True)

    validation = evaluate_weights(fetched, split="validation")
    assert validation.accuracy == trials[best.weights_trial].validation_accuracy
    assert validation.accuracy > 0.2  # chance is 0.1: it has learned something
    assert evaluate_weights(fetched, split="test").overall == best.test
    study = optuna.load_study(study_name=view.id, storage=f"sqlite:///{tmp_path / 'state' / 'fixnorm.db'}")
    assert {trial.number: trial.value for trial in study.trials} == {
        number: trial.validation_accuracy for number, trial in trials.items()
    }
