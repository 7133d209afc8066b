"""A server on real Ray, its slots and its database are killed at random: every job ends as the undisturbed one did.

``FIXNORM_KILL_SEEDS=N`` takes so many seeds instead of five; ``FIXNORM_KILL_SEED=N`` begins at another one.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random

import optuna
import psutil
import pytest
from disasters import Site, slots_killed_at_random
from optuna.trial import TrialState as OptunaState
from postgres import Postgres, find_binaries, running
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from fixnorm_core.spec import BudgetSpec, DataSpec, JobSpec, ModelSpec, TrainingSpec
from service.client import Client
from service.database.rows import AttemptKind, AttemptState
from service.events.records import events_after
from service.jobs.repository import attempts_of
from service.schemas import TERMINAL_STATES, EventKind, JobState, TrialState
from service.studies.storage import close_storage, open_reading_storage
from worker.contracts import FailureKind

pytestmark = pytest.mark.ray

FIRST = int(os.environ.get("FIXNORM_KILL_SEED") or 0)
COUNT = int(os.environ.get("FIXNORM_KILL_SEEDS") or 5)

# What is down for how many seconds; a seed takes the one that its number says
ON_SQLITE = (("server", 2.0), ("server", 0.0), ("server", 20.0))
ON_POSTGRESQL = (
    ("database", 3.0),
    ("both", 2.0),
    ("server", 20.0),
    ("both", 20.0),
    ("database", 0.0),
    ("server", 0.0),
    ("server", 2.0),
)
SQLITE_SEEDS = range(FIRST, FIRST + COUNT * 2 // 5)
POSTGRESQL_SEEDS = range(FIRST, FIRST + COUNT - len(SQLITE_SEEDS))
SLOTS_KILLED_AT_MOST = 2  # a trial that loses its worker three times has failed

SPEC = JobSpec(
    model=ModelSpec(options={"width": 8}),
    data=DataSpec(train_limit=400),
    training=TrainingSpec(epochs=12),
    budget=BudgetSpec(max_trials=3, confirm_runs=1, stop_early=False),
)

Told = list[tuple[dict[str, float], TrialState, float | None, tuple[float, ...]]]


def told(client: Client, job_id: str) -> Told:
    return [
        (trial.params, trial.state, trial.validation_accuracy, tuple(trial.curve)) for trial in client.trials(job_id)
    ]


def wait_until_it_trains(site: Site, job_id: str) -> None:
    """Until an epoch of a trial is over and there are more to come, so that a kill takes something away."""
    deadline = time.monotonic() + 300
    with Client(site.server.url) as client:
        while time.monotonic() < deadline:
            assert client.job(job_id).state not in TERMINAL_STATES, "it ended before anything could be killed"
            running = [trial for trial in client.trials(job_id) if trial.state is TrialState.RUNNING]
            if any(0 < len(trial.curve) < trial.epochs // 2 for trial in running):
                return
            time.sleep(0.2)  # a look takes the server's processor time from what it looks at
    raise AssertionError(f"no trial was seen to train: {site.server.log}")


def strike(site: Site, what: str, down_seconds: float) -> None:
    """Takes the server, the database or both away for a while."""
    if what in ("server", "both"):
        site.kill_server()
    if what in ("database", "both"):
        site.crash_database()
    time.sleep(down_seconds)
    if what in ("database", "both"):
        site.start_database()
    if what in ("server", "both"):
        site.start_server()
    site.wait_until_it_answers()


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        server: Postgres | None = None
        if request.param == "postgresql":
            request.getfixturevalue("postgres")  # whose absence is told once, by the shared one
            binaries = find_binaries()
            assert binaries is not None
            server = stack.enter_context(running(binaries))
        folder = tmp_path_factory.mktemp(request.param)
        found = Site(folder, server, cpus=2, retry_seconds=0.2, lease_seconds=1)
        stack.callback(found.server.stop)
        found.start_server()
        yield found
        kin = psutil.Process(found.server.pid).children(recursive=True)
        stack.close()
    assert psutil.wait_procs([*kin, *found.orphans], timeout=60)[1] == []


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> Told:
    with Client(site.server.url) as client:
        job_id = client.submit(SPEC).id
        view = site.wait(job_id)
        assert view.state is JobState.SUCCEEDED, view.reason
        return told(client, job_id)


@pytest.mark.parametrize("seed", SQLITE_SEEDS)
@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
def test_whatever_is_killed_on_sqlite_a_job_ends_as_the_undisturbed_one(
    site: Site, undisturbed: Told, seed: int
) -> None:
    check(site, undisturbed, seed, *ON_SQLITE[seed % len(ON_SQLITE)])


@pytest.mark.parametrize("seed", POSTGRESQL_SEEDS)
@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
def test_whatever_is_killed_on_postgresql_a_job_ends_as_the_undisturbed_one(
    site: Site, undisturbed: Told, seed: int
) -> None:
    check(site, undisturbed, seed, *ON_POSTGRESQL[seed % len(ON_POSTGRESQL)])


def check(site: Site, undisturbed: Told, seed: int, what: str, down_seconds: float) -> None:
    random = Random(seed)
    with Client(site.server.url) as client:
        job_id = client.submit(SPEC).id
    with slots_killed_at_random(site, job_id, random, at_most=SLOTS_KILLED_AT_MOST) as slots:
        wait_until_it_trains(site, job_id)
        time.sleep(random.uniform(0.0, 0.3))
        strike(site, what, down_seconds)
        view = site.wait(job_id)
    print(f"\nseed {seed}: {what} down for {down_seconds:g} s, {len(slots)} slots killed")

    assert view.state is JobState.SUCCEEDED, view.reason
    assert view.progress.finished == SPEC.budget.max_trials
    with Client(site.server.url) as client:
        assert told(client, job_id) == undisturbed
    assert_it_was_told_once(site, job_id)
    ended = attempts_ended(site, job_id)
    assert set(ended) <= {AttemptState.COMPLETE, AttemptState.FAILED, AttemptState.LOST}
    assert ended[AttemptState.FAILED] <= len(slots)
    assert ended[AttemptState.LOST] <= 1
    if what != "database":  # then what runs runs on; unless its slot had just died, a server takes it along
        assert ended[AttemptState.LOST] + ended[AttemptState.FAILED] >= 1
    _, alive = psutil.wait_procs(site.orphans, timeout=60)
    assert alive == [], f"of the killed server: {alive}"
    assert len(site.slots()) <= 1  # the warm one


def attempts_ended(site: Site, job_id: str) -> Counter[str]:
    engine = create_engine(site.url)
    with Session(engine) as session:
        states = Counter(row.state for row in attempts_of(session, [job_id]))
    engine.dispose()
    return states


def assert_it_was_told_once(site: Site, job_id: str) -> None:
    """One result of each trial, of one attempt, in one event; every failure a slot's; nothing left open."""
    numbers = list(range(SPEC.budget.max_trials))
    engine = create_engine(site.url)
    with Session(engine) as session:
        rows = attempts_of(session, [job_id])
        events = events_after(session, job_id, 0, limit=10_000)
    engine.dispose()
    taken = [row.trial_number for row in rows if row.state == AttemptState.COMPLETE and row.kind == AttemptKind.TRAIN]
    assert sorted(taken) == numbers
    assert {row.failure for row in rows if row.state == AttemptState.FAILED} <= {FailureKind.RETRYABLE}

    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert Counter(event.trial for event in events if event.kind is EventKind.TRIAL_ENDED) == Counter(numbers)
    assert sum(event.kind is EventKind.JOB_ENDED for event in events) == 1
    epochs = Counter((event.trial, event.epoch) for event in events if event.kind is EventKind.TRIAL_EPOCH)
    assert epochs == {(number, epoch): 1 for number in numbers for epoch in range(1, SPEC.training.epochs + 1)}
    ended = Counter(event.attempt for event in events if event.kind is EventKind.ATTEMPT_ENDED)
    assert ended == {row.id: 1 for row in rows}

    storage = open_reading_storage(site.url)
    trials = optuna.load_study(study_name=job_id, storage=storage).trials
    close_storage(storage)
    assert [trial.state for trial in trials] == [OptunaState.COMPLETE] * len(numbers)
