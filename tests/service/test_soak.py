"""Many jobs on a server that dies, loses its database and its workers at any moment; every change is checked.

``FIXNORM_SOAK=full`` runs 200 jobs of 25 trials; ``FIXNORM_SOAK_SEED=N`` repeats what a failure has printed.
"""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from byhand import put, state_of
from faults import Crash, Faults
from journal import Journal
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from fixnorm_core.reports import TrialOutcome
from fixnorm_core.spec import JobSpec
from service import composition
from service.composition import Service, build
from service.jobs import repository
from service.schemas import TERMINAL_STATES, JobState
from service.settings import BackendName, Settings
from worker.contracts import Failed, FailureKind, Resources, Task, Trained, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

FULL = os.environ.get("FIXNORM_SOAK") == "full"
# A change's own tests must not fail by another's luck: new seeds are for the long runs.
JOBS, TRIALS = (200, 25) if FULL else (6, 4)
SEED = int(os.environ.get("FIXNORM_SOAK_SEED") or (secrets.randbelow(10**6) if FULL else 5))


class Unreliable(SimulatorBackend):
    """Loses workers, lets trials crash and diverge, and tells some news twice, or long after it was news."""

    def __init__(self, random: Random, stale: list[Update]) -> None:
        super().__init__(Recording.packaged(), total=Resources(cpus=8.0, gpus=0.0))
        self.random = random
        self.stale = stale  # what other backends have told, before their server died too
        self.calm: set[str] = set()

    def start(self, task: Task, resources: Resources) -> None:
        if self.random.random() < 0.03:
            raise ConnectionError("no such cluster")
        super().start(task, resources)

    def poll(self) -> list[Update]:
        news = []
        for update in super().poll():
            news.append(self._befallen(update))
            if self.random.random() < 0.05:
                news.append(news[-1])
        self.stale.extend(news)
        if self.stale and self.random.random() < 0.1:
            news.append(self.random.choice(self.stale))
        return news

    def _befallen(self, update: Update) -> Update:
        die = self.random.random()
        if update.outcome is None:
            if die < 0.02:
                del self._replays[update.attempt_id]
                return Update(update.attempt_id, update.reports, Failed(FailureKind.RETRYABLE, "the worker was lost"))
        elif isinstance(update.outcome, Trained) and update.attempt_id.split(".")[0] not in self.calm:
            if die < 0.02:
                return Update(update.attempt_id, update.reports, Failed(FailureKind.CRASHED, "it crashed"))
            if die < 0.05:
                result = update.outcome.result.model_copy(update={"outcome": TrialOutcome.DIVERGED})
                return Update(update.attempt_id, update.reports, Trained(result))
        return update


class Soak:
    """One run: servers that follow each other on one database."""

    def __init__(self, folder: Path, seed: int, patched: pytest.MonkeyPatch) -> None:
        self.random = Random(seed)
        self.settings = Settings(state_dir=folder, backend=BackendName.SIMULATOR, retry_seconds=0)
        self.faults = Faults(self.random, crash=0.0004, error=0.0015)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.stale: list[Update] = []
        self.calm: set[str] = set()
        self.restarts = 0
        # A process that dies lets go of its files; this one lives on
        patched.setattr(composition, "_lock", lambda _settings: None)
        lease = composition.Lease
        patched.setattr(composition, "Lease", lambda *args, **options: lease(*args, **(options | {"alone": True})))
        self.service = self._build()
        self.journal = Journal(folder / "fixnorm.db")

    def _build(self) -> Service:
        backend = Unreliable(self.random, self.stale)
        backend.calm = self.calm
        return build(self.settings, backend=backend, now=self._later)

    def _later(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def submit(self, spec: JobSpec, *, calm: bool) -> str:
        job_id = put(self.service, spec)
        self.journal.expect(job_id, max_trials=spec.budget.max_trials)
        if calm:
            self.calm.add(job_id)
        return job_id

    def tick(self) -> None:
        """One look of the dispatcher, come what may; then everything that it has changed is checked."""
        dispatcher, failed = self.service.dispatcher, False
        self.faults.on = True
        try:
            dispatcher.tick()
        except (SQLAlchemyError, StorageInternalError):
            failed = True
        except Crash:
            self.faults.on = False
            self.restarts += 1
            self._drop()
            self.service = self._build()
            failed = True
        self.faults.on = False
        self.journal.look()
        if not failed:
            assert self.journal.live() == set(dispatcher._attempts.live)

    def cancel_one(self, jobs: list[str]) -> None:
        victim = self.random.choice(jobs)
        with self.service.runtime.database.write.begin() as session:
            repository.request_cancel(session, victim)
        self.service.dispatcher.wake()

    def _drop(self) -> None:
        """As a kill would: connections are cut, and nobody says goodbye."""
        service = self.service
        for storage in (service.dispatcher.studies.storage, service.runtime.storage):
            composition.close_storage(storage)
        service.runtime.database.close()
        gc.collect()

    def close(self) -> None:
        self.journal.close()
        self.service.close()


@pytest.fixture
def soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Soak]:
    run = Soak(tmp_path, SEED, monkeypatch)
    with run.faults.installed():
        yield run
    run.close()


def test_whatever_is_killed_every_job_ends_with_its_budget_and_each_result_taken_once(
    soak: Soak, job: dict[str, Any]
) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"\nFIXNORM_SOAK_SEED={SEED} repeats this")
    search = job["search"] | {"sampler": "random", "pruner": "none"}
    specs = {}
    for number in range(JOBS):
        budget = {"max_trials": TRIALS, "confirm_runs": number % 2, "parallel_trials": 1 + number % 3}
        calm = number % 4 == 0
        if calm:
            budget["parallel_trials"] = 1
        limits = {"stop_early": False, "max_failures": 1000}
        spec = JobSpec.model_validate(job | {"search": search, "seed": number, "budget": budget | limits})
        specs[soak.submit(spec, calm=calm)] = spec
    waiting, cancelled = list(specs), set()
    for tick in range(400 * JOBS * TRIALS):
        soak.tick()
        if soak.random.random() < 0.3 / TRIALS:
            rough = [job_id for job_id in waiting if job_id not in soak.calm]
            if rough and len(cancelled) < JOBS / 10:
                cancelled.add(soak.random.choice(rough))
                soak.cancel_one(sorted(cancelled)[-1:])
        if tick % 20 == 0:
            waiting = [job_id for job_id in waiting if state_of(soak.service, job_id) not in TERMINAL_STATES]
        if not waiting:
            break
    assert not waiting, f"{len(waiting)} jobs did not end"
    assert soak.journal.left_open() == []
    for job_id, spec in specs.items():
        told = soak.journal.told(job_id)
        finished = {number: state for number, (state, _) in told.items() if state in ("COMPLETE", "PRUNED")}
        assert finished == soak.journal.taken(job_id)
        if state_of(soak.service, job_id) is not JobState.CANCELLED:
            assert state_of(soak.service, job_id) is JobState.SUCCEEDED
            assert len(finished) == spec.budget.max_trials
    print(f"{soak.restarts} restarts, {soak.faults.struck}, {len(cancelled)} cancelled, {soak.journal.changes} changes")
