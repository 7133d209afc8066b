"""A server on real Ray that is killed while it trains: the job ends as the undisturbed one did, bit for bit.

``FIXNORM_KILL_SEEDS=N`` takes more seeds than one; ``FIXNORM_KILL_SEED=N`` begins at another one.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

import psutil
import pytest
from processes import ServerProcess

from fixnorm_core.spec import BudgetSpec, JobSpec, ModelSpec, TrainingSpec
from service.client import Client
from service.schemas import TERMINAL_STATES, JobState, TrialState

pytestmark = pytest.mark.ray

FIRST = int(os.environ.get("FIXNORM_KILL_SEED") or 0)
SEEDS = range(FIRST, FIRST + int(os.environ.get("FIXNORM_KILL_SEEDS") or 1))
KILLS = 2
DOWN_SECONDS = (0, 2, 20) if len(SEEDS) > 1 else (0, 2)

SPEC = JobSpec(
    model=ModelSpec(options={"width": 8}),
    training=TrainingSpec(epochs=12),
    budget=BudgetSpec(max_trials=4, confirm_runs=1, stop_early=False),
)

Told = list[tuple[dict[str, float], TrialState, float | None, tuple[float, ...]]]


def told(client: Client, job_id: str) -> Told:
    return [
        (trial.params, trial.state, trial.validation_accuracy, tuple(trial.curve)) for trial in client.trials(job_id)
    ]


def wait_until_it_trains(client: Client, job_id: str) -> None:
    """Until an epoch of a trial is over and there are more to come, so that a kill takes something away."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert client.job(job_id).state not in TERMINAL_STATES, "it ended before it could be killed"
        running = [trial for trial in client.trials(job_id) if trial.state is TrialState.RUNNING]
        if any(0 < len(trial.curve) < trial.epochs // 2 for trial in running):
            return
        time.sleep(0.01)
    raise AssertionError("no trial was seen to train")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("undisturbed")
    server = ServerProcess("server", folder, state_dir=folder / "state", backend="ray", cpus=2)
    server.start()
    try:
        server.wait()
        with Client(server.url) as client:
            view = client.wait(client.submit(SPEC).id)
            assert view.state is JobState.SUCCEEDED, view.reason
            return told(client, view.id)
    finally:
        server.stop()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_job_whose_server_is_killed_ends_as_the_undisturbed_one(undisturbed: Told, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    server = ServerProcess("server", tmp_path, state_dir=tmp_path / "state", backend="ray", cpus=2)
    server.start()
    try:
        server.wait()
        with Client(server.url) as client:
            job_id = client.submit(SPEC).id
        kin: list[psutil.Process] = []
        for _ in range(KILLS):
            with Client(server.url) as client:
                wait_until_it_trains(client, job_id)
            time.sleep(random.uniform(0.0, 0.5))
            kin += psutil.Process(server.pid).children(recursive=True)
            server.send(signal.SIGKILL)
            time.sleep(random.choice(DOWN_SECONDS))
            server.start()
            server.wait()
        with Client(server.url) as client:
            view = client.wait(job_id)
            assert view.state is JobState.SUCCEEDED, view.reason
            assert view.progress.finished == SPEC.budget.max_trials
            assert told(client, job_id) == undisturbed
            assert sum(trial.attempts - 1 for trial in client.trials(job_id)) >= 1  # a kill has cost an attempt
        _, alive = psutil.wait_procs(kin, timeout=60)
        assert alive == [], f"of the killed servers: {alive}"
        kin = psutil.Process(server.pid).children(recursive=True)
    finally:
        server.stop()
    assert psutil.wait_procs(kin, timeout=60)[1] == []
