"""A backup by the documented commands, while a job runs; then all is destroyed, restored, and goes on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from deployment import DEPLOY
from processes import ServerProcess
from sqlalchemy import make_url
from waiting import wait_until

from fixnorm_core.spec import BudgetSpec, DataSpec, JobSpec, ModelSpec, TrainingSpec
from service.client import Client
from service.schemas import JobState, TrialState
from worker.recording import Recording

if TYPE_CHECKING:
    from postgres import Postgres

GUIDE = (DEPLOY / "README.md").read_text(encoding="utf-8")
EPOCHS = 120


def spec(*, trials: int, epochs: int) -> JobSpec:
    return JobSpec(
        model=ModelSpec(options={"width": 8}),
        data=DataSpec(train_limit=200, validation_limit=100),
        training=TrainingSpec(epochs=epochs),
        budget=BudgetSpec(max_trials=trials, parallel_trials=1, confirm_runs=0, stop_early=False),
    )


def documented(program: str) -> list[str]:
    """The options of a command that the guide gives, but for those that name a place."""
    line = next(line for line in GUIDE.splitlines() if f" {program} --" in line)
    words = line.split(f" {program} ")[1].split(" > ")[0].split(" < ")[0].split()
    return [word for word in words if word.startswith("--") and "=" not in word] + [
        word for word in words if word.startswith("--format")
    ]


def run(program: str | Path, *options: str | Path, status: tuple[int, ...] = (0,), **more: Any) -> None:
    done = subprocess.run([program, *options], capture_output=True, check=False, **more)
    assert done.returncode in status, done.stderr


@pytest.mark.ray
def test_on_postgresql_jobs_trials_and_weights_are_back_and_the_running_job_goes_on(
    postgres: Postgres, tmp_path: Path
) -> None:
    from postgres import find_binaries

    binaries, state = find_binaries(), tmp_path / "state"
    assert binaries is not None
    lost = postgres.create_database()
    url = make_url(lost)
    access = {"PGHOST": str(url.query["host"]), "PGUSER": "fixnorm"}
    environment = os.environ | access
    dump, archive = tmp_path / "fixnorm.dump", tmp_path / "fixnorm-state.tar.gz"
    server = ServerProcess("before", tmp_path, state_dir=state, backend="ray", database_url=lost, cpus=1)
    server.start()
    try:
        server.wait()
        with Client(server.url) as client:
            done = client.wait(client.submit(spec(trials=2, epochs=2)).id)
            assert done.state is JobState.SUCCEEDED, done.reason
            best, trials = client.best(done.id), client.trials(done.id)
            weights = client.download_weights(done.id, to=tmp_path / "weights").read_bytes()
            running = client.submit(spec(trials=1, epochs=EPOCHS)).id
            wait_until(lambda: any(len(trial.curve) >= 3 for trial in client.trials(running)))
            run(binaries / "pg_dump", *documented("pg_dump"), f"--file={dump}", str(url.database), env=environment)
            seen = client.trials(running)[0].curve
            # 1: a checkpoint was replaced while it was read, and a newer one is there
            run("tar", *documented("tar"), f"--directory={state}", f"--file={archive}", ".", status=(0, 1))
            assert client.job(running).state is JobState.RUNNING
        slots = psutil.Process(server.pid).children(recursive=True)
        server.send(signal.SIGKILL)
        for slot in slots:
            with suppress(psutil.NoSuchProcess):
                slot.kill()
        psutil.wait_procs(slots, timeout=60)
    finally:
        server.stop()
    shutil.rmtree(state)
    postgres.drop_database(lost)

    fresh = postgres.create_database()
    name = str(make_url(fresh).database)
    options = documented("pg_restore")
    run(binaries / "pg_restore", *options, f"--dbname={name}", dump, env=environment)
    state.mkdir()
    run("tar", "--extract", "--gzip", f"--directory={state}", f"--file={archive}")
    server = ServerProcess("after", tmp_path, state_dir=state, backend="ray", database_url=fresh, cpus=1)
    server.start()
    try:
        server.wait()
        with Client(server.url) as client:
            assert {job.id for job in client.jobs()} == {done.id, running}
            assert client.job(done.id) == done
            assert (client.best(done.id), client.trials(done.id)) == (best, trials)
            assert client.download_weights(done.id, to=tmp_path / "again").read_bytes() == weights
            view = client.wait(running)
            assert view.state is JobState.SUCCEEDED, view.reason
            (trial,) = client.trials(running)
            assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)
            assert len(trial.curve) == EPOCHS
            assert trial.curve[:3] == seen[:3]
    finally:
        server.stop()
        postgres.drop_database(fresh)


def test_on_sqlite_too(tmp_path: Path) -> None:
    state, kept = tmp_path / "fixnorm-state", tmp_path / "fixnorm.db.backup"
    back_up, make, unpack, copy_in = [line[2:] for line in GUIDE.splitlines() if re.match(r"\$ (tar|mkdir|cp) ", line)]
    job = Recording.packaged().job.model_dump()
    budget = {"max_trials": 3, "confirm_runs": 0, "stop_early": False}
    server = ServerProcess("before", tmp_path, state_dir=state, epoch_seconds=0.2)
    server.start()
    try:
        server.wait()
        with Client(server.url) as client:
            one = client.submit(JobSpec.model_validate(job | {"budget": budget | {"parallel_trials": 3}})).id
            done = client.wait(one)
            running = client.submit(JobSpec.model_validate(job | {"budget": budget | {"parallel_trials": 1}})).id
            wait_until(lambda: client.job(running).progress.finished == 1)
            finished = client.trials(running)[0]
            # What `sqlite3 FILE ".backup COPY"` does, whose program not every machine has
            with closing(sqlite3.connect(state / "fixnorm.db")) as source, closing(sqlite3.connect(kept)) as copy:
                source.backup(copy)
            # A log may grow meanwhile
            run("sh", "-c", back_up, cwd=tmp_path, status=(0, 1))
        server.send(signal.SIGKILL)
    finally:
        server.stop()
    shutil.rmtree(state)
    for line in (make, unpack):
        run("sh", "-c", line, cwd=tmp_path)
    assert not list(state.glob("fixnorm.db*"))  # a WAL of another moment would be applied to the backup
    run("sh", "-c", copy_in, cwd=tmp_path)
    server = ServerProcess("after", tmp_path, state_dir=state)
    server.start()
    try:
        server.wait()
        with Client(server.url) as client:
            assert client.job(one) == done
            view = client.wait(running)
            assert (view.state, view.progress.finished) == (JobState.SUCCEEDED, 3)
            assert client.trials(running)[0] == finished
    finally:
        server.stop()
