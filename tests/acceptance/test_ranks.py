"""A job whose trials are trained by two ranks, over HTTP, with a real server: one of them is killed under way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cluster import RayHead, joined_head
from processes import ServerProcess

from fixnorm_core.spec import BudgetSpec, DataSpec, JobSpec, ModelSpec, ResourceSpec, TrainingSpec
from fixnorm_core.training.evaluate import evaluate_weights
from fixnorm_core.training.weights import load_classifier
from service.client import Client, ProblemError
from service.schemas import JobState, TrialState

pytestmark = pytest.mark.ray

EPOCHS = 30


def job(*, trials: int, epochs: int = EPOCHS) -> JobSpec:
    return JobSpec(
        model=ModelSpec(options={"width": 8}),
        data=DataSpec(train_limit=400),
        training=TrainingSpec(epochs=epochs),
        budget=BudgetSpec(max_trials=trials, parallel_trials=2, confirm_runs=0, stop_early=False),
        resources=ResourceSpec(cpus_per_trial=2, ranks_per_trial=2),
    )


def companions() -> list[int]:
    """The other ranks of this test's server's slots."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith("ray::Companion"):
                found.append(process.pid)
    return found


def until(condition: Callable[[], bool], what: str, *, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.2)


def epochs_of(client: Client, job_id: str, number: int) -> int:
    return next((len(trial.curve) for trial in client.trials(job_id) if trial.number == number), 0)


def test_a_job_of_two_ranks_a_trial_survives_the_loss_of_one_and_is_refused_what_no_node_has(tmp_path: Path) -> None:
    server = ServerProcess("server", tmp_path, state_dir=tmp_path / "state", backend="ray", cpus=2)
    server.start()
    try:
        server.wait()
        with Client(server.url) as client:
            with pytest.raises(ProblemError, match="gpus_per_trial is 4, but the whole cluster has 0 GPUs"):
                client.submit(job(trials=1).model_copy(update={"resources": ResourceSpec(gpus_per_trial=4)}))

            job_id = client.submit(job(trials=2)).id
            until(lambda: 0 < epochs_of(client, job_id, 0) < EPOCHS // 2, "the first trial trains")
            assert client.queue().held.cpus == 2  # of both ranks, so the second trial waits
            (companion,) = companions()
            os.kill(companion, signal.SIGKILL)
            view = client.wait(job_id)

            assert view.state is JobState.SUCCEEDED, view.reason
            trials = client.trials(job_id)
            assert [(trial.number, trial.state, trial.attempts) for trial in trials] == [
                (0, TrialState.COMPLETE, 2),
                (1, TrialState.COMPLETE, 1),
            ]
            assert [len(trial.curve) for trial in trials] == [EPOCHS, EPOCHS]
            best = client.best(job_id)
            weights = client.download_weights(job_id, to=tmp_path / "weights.safetensors")
            assert load_classifier(weights).trial.ranks == 2
            assert evaluate_weights(weights, split="test").overall == best.test

            endless = client.submit(job(trials=1, epochs=10_000)).id
            until(lambda: epochs_of(client, endless, 0) > 0, "its trial trains")
            client.cancel(endless)
            until(lambda: not companions(), "no rank is left")
    finally:
        server.stop()


@pytest.fixture
def head() -> Iterator[RayHead]:
    with joined_head(cpus=2) as head:
        yield head


def test_on_a_cluster_of_its_own_both_ranks_outlive_the_server_and_the_next_adopts_them(
    head: RayHead, tmp_path: Path
) -> None:
    server = ServerProcess("server", tmp_path, state_dir=tmp_path / "state", backend="ray", retry_seconds=1)
    server.start()
    try:
        server.wait()
        with Client(server.url) as client:
            job_id = client.submit(job(trials=1, epochs=10_000)).id
            until(lambda: epochs_of(client, job_id, 0) > 0, "the trial trains")
        ranks = head.slots(), companions()
        assert [len(pids) for pids in ranks] == [1, 1]
        server.send(signal.SIGKILL)
        server.start()
        server.wait()
        with Client(server.url) as client:
            assert (head.slots(), companions()) == ranks
            told = epochs_of(client, job_id, 0)
            until(lambda: epochs_of(client, job_id, 0) > told, "it trains on")
            client.cancel(job_id)
            assert client.wait(job_id).state is JobState.CANCELLED
            (trial,) = client.trials(job_id)
            assert trial.attempts == 1
    finally:
        server.stop()
    until(lambda: not head.slots() and not companions(), "no rank is left")
