"""Many jobs on a server that dies, loses its database and its workers at any moment; every change is checked.

``FIXNORM_SOAK=full`` runs 200 jobs of 5,000 trials; ``FIXNORM_SOAK_SEED=N`` repeats what a failure has printed.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import secrets
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from soak import Outcome, Plan, run

FULL = os.environ.get("FIXNORM_SOAK") == "full"
# A change's own tests must not fail by another's luck: new seeds are for the long runs.
SEED = int(os.environ.get("FIXNORM_SOAK_SEED") or (secrets.randbelow(10**6) if FULL else 5))
SHORT = Plan(jobs=6, trials=5, at_once=6, crash=0.001, error=0.004)
LONG = Plan(jobs=200, trials=25, at_once=12, crash=0.0001, error=0.0007)


@pytest.mark.both_databases
def test_whatever_is_killed_every_job_ends_with_its_budget_and_each_result_taken_once(
    database_url: str, tmp_path: Path
) -> None:
    print(f"\nFIXNORM_SOAK_SEED={SEED} repeats this")
    url = None if database_url.startswith("sqlite") else database_url
    check(run(tmp_path, plan=SHORT, seed=SEED, url=url), plan=SHORT)


def test_the_same_of_jobs_that_are_extended_and_retried_meanwhile_and_when_they_have_ended(tmp_path: Path) -> None:
    print(f"\nFIXNORM_SOAK_SEED={SEED} repeats this")
    plan = dataclasses.replace(SHORT, rounds=True)
    check(run(tmp_path, plan=plan, seed=SEED), plan=plan)


@pytest.mark.skipif(not FULL, reason="FIXNORM_SOAK=full runs 5,000 trials")
def test_the_same_of_200_jobs_and_5000_trials(tmp_path: Path) -> None:
    processes = os.cpu_count() or 1
    shares = [len(range(number, LONG.jobs, processes)) for number in range(processes)]
    print(f"\nFIXNORM_SOAK_SEED={SEED} repeats this, on {processes} processors")
    begin = time.monotonic()
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [
            pool.submit(_share, tmp_path / str(number), share, SEED + number) for number, share in enumerate(shares)
        ]
        for each, share in zip(runs, shares, strict=True):
            check(each.result(), plan=dataclasses.replace(LONG, jobs=share))
    print(f"{time.monotonic() - begin:.0f} s")


def check(outcome: Outcome, *, plan: Plan) -> None:
    """That the run was one: every single change of it has been checked while it went on, by :mod:`journal`."""
    print(outcome.words)
    assert outcome.ended == plan.jobs
    assert outcome.checked > outcome.results > 0
    assert sum(outcome.struck.values()) > 0, "nothing went wrong, so nothing was shown"


def _share(folder: Path, jobs: int, seed: int) -> Outcome:
    folder.mkdir()
    return run(folder, plan=dataclasses.replace(LONG, jobs=jobs), seed=seed)
