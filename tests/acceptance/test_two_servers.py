"""Two server processes on one PostgreSQL: the one that dispatches is killed or suspended, and the other takes over."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from processes import ServerProcess
from sqlalchemy import create_engine, select

from fixnorm_core.spec import BudgetSpec, JobSpec
from service.client import Client
from service.database.rows import AttemptRow, AttemptState
from service.schemas import JobState
from service.studies.storage import close_storage, open_reading_storage
from worker.recording import Recording


@pytest.fixture
def servers(postgres_url: str, tmp_path: Path) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    settings = {"database_url": postgres_url, "lease_seconds": 2, "epoch_seconds": 0.2, "cpus": 2}
    both = [ServerProcess(name, tmp_path, state_dir=tmp_path / "state", **settings) for name in ("first", "second")]
    try:
        for server in both:
            server.start()
        for server in both:
            server.wait()
        yield both[0], both[1]
    finally:
        for server in both:
            server.stop()


def until(condition: Callable[[], bool], what: str, *, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "suspended"])
def test_the_job_goes_on_with_the_other_and_ends_with_exactly_its_trials(
    servers: tuple[ServerProcess, ServerProcess], postgres_url: str, number: signal.Signals
) -> None:
    leader, standby = sorted(servers, key=lambda server: not server.leads)
    assert (leader.leads, standby.leads) == (True, False)
    budget = BudgetSpec(max_trials=5, parallel_trials=2, confirm_runs=1, stop_early=False)
    spec = JobSpec.model_validate(Recording.packaged().job.model_dump() | {"budget": budget.model_dump()})
    with Client(standby.url) as client:
        job_id = client.submit(spec).id  # to the one that does not dispatch
        until(lambda: client.job(job_id).progress.finished >= 1, "a finished trial")
        until(lambda: any(trial.curve and trial.state == "RUNNING" for trial in client.trials(job_id)), "an epoch")
        leader.send(number)
        until(lambda: standby.leads, "the other one dispatches")
        if number is signal.SIGSTOP:
            leader.send(signal.SIGCONT)  # it goes on in the middle of what it did
            until(lambda: not leader.leads, "the suspended one stands down")
        else:
            leader.start()
            leader.wait()
            assert not leader.leads
        view = client.wait(job_id)
        assert view.state is JobState.SUCCEEDED, view.reason
        assert view.progress.finished == budget.max_trials
        trials = client.trials(job_id)
    with Client(leader.url) as client:
        assert client.job(job_id) == view  # both answer alike

    # One that was suspended as it asked for a trial writes it when it goes on; the other ends it, and charges nobody
    surplus = {trial.number: (trial.state, trial.reason) for trial in trials if trial.attempts == 0}
    assert len(surplus) <= (number is signal.SIGSTOP)
    assert set(surplus.values()) <= {("CANCELLED", "it was never trained")}
    assert [trial.number for trial in trials] == list(range(budget.max_trials + len(surplus)))
    trained = [trial.number for trial in trials if trial.number not in surplus]
    storage = open_reading_storage(postgres_url)
    study = optuna.load_study(study_name=job_id, storage=storage)
    expected = [TrialState.FAIL if trial.number in surplus else TrialState.COMPLETE for trial in trials]
    assert [trial.state for trial in study.trials] == expected
    epochs = list(range(1, spec.training.epochs + 1))
    assert all(sorted(study.trials[each].intermediate_values) == epochs for each in trained)
    close_storage(storage)

    engine = create_engine(postgres_url)
    with engine.connect() as connection:
        columns = (AttemptRow.trial_number, AttemptRow.state, AttemptRow.lease)
        rows = connection.execute(select(*columns).where(AttemptRow.kind == "train")).all()
    engine.dispose()
    ended = [row.trial_number for row in rows if row.state == AttemptState.COMPLETE]
    assert sorted(ended) == trained  # each trial's result was taken once
    # None is lost where the trial that ran ended in the instant before its server was stopped
    assert {row.state for row in rows} <= {AttemptState.COMPLETE, AttemptState.LOST}
    assert len({row.lease for row in rows}) == 2
