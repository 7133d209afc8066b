"""Null trials through the whole service, and the same trials through Optuna alone."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage, get_storage
from postgres import Postgres
from serving import serving

from service.composition import build
from service.database.connections import engine_options, make_safe
from service.settings import Settings
from service.studies.storage import close_storage
from service.studies.studies import trial_seed
from worker.contracts import Backend, Resources

from .databases import empty_database
from .null import SPACE, NullBackend, job, score
from .timing import Spent, timed

__all__ = ["Load", "optuna_alone", "whole_service"]


@dataclass(frozen=True)
class Load:
    """What one run does: ``jobs`` (studies) of ``trials``, ``parallel`` at a time, each telling of ``epochs``."""

    jobs: int
    trials: int
    parallel: int
    epochs: int

    @property
    def total(self) -> int:
        return self.jobs * self.trials


def whole_service(load: Load, *, postgres: Postgres | None, backend: Backend | None = None) -> Spent:
    """From the first request to the end of the last job: HTTP, dispatcher, database, report; default settings.

    A first job, of as many trials as run beside each other, warms everything up and is not timed.
    """
    with tempfile.TemporaryDirectory() as scratch, empty_database(Path(scratch), postgres) as url:
        settings = Settings(state_dir=Path(scratch), database_url=url)
        total = Resources(cpus=float(load.parallel), gpus=0.0)
        service = build(settings, backend=backend or NullBackend(load.epochs, total))
        with serving(service.app) as address, httpx.Client(base_url=f"{address}/api/v1", timeout=60) as client:
            _run(client, replace(load, jobs=1, trials=load.parallel))
            return timed(lambda: _run(client, load))


def _run(client: httpx.Client, load: Load) -> None:
    ids = []
    for seed in range(load.jobs):
        body = job(trials=load.trials, parallel=load.parallel, epochs=load.epochs, seed=seed)
        ids.append(client.post("/jobs", json=body).raise_for_status().json()["id"])
    for job_id in ids:
        while (ended := client.get(f"/jobs/{job_id}").raise_for_status().json())["ended_at"] is None:
            assert "is tried again" not in ended["reason"], ended["reason"]
            time.sleep(0.1)
        assert ended["state"] == "SUCCEEDED", ended["reason"]
        assert ended["progress"]["finished"] == load.trials


def optuna_alone(load: Load, *, postgres: Postgres | None) -> Spent:
    """``ask`` with the space, the seed as an attribute, ``report`` of every epoch and ``tell``, one after the other.

    One thread, as fast as it can: more of them share its interpreter lock and, on SQLite, its write lock. The
    connections are set up as the service's.
    """
    space: dict[str, BaseDistribution] = {
        name: FloatDistribution(low, high, log=True) for name, (low, high) in SPACE.items()
    }
    with tempfile.TemporaryDirectory() as scratch, empty_database(Path(scratch), postgres) as url:
        rdb = RDBStorage(url, engine_kwargs=engine_options(url))
        make_safe(rdb.engine, read_only=False)
        storage = get_storage(rdb)

        def one_trial(study: optuna.Study) -> None:
            trial = study.ask(space)
            trial.set_user_attr("seed", trial_seed(0, trial.number))
            value = score(trial.params["lr"], trial.params["fc_norm"])
            for epoch in range(1, load.epochs + 1):
                trial.report(value, step=epoch)
            study.tell(trial, value)

        def run(load: Load) -> None:
            for _ in range(load.jobs):
                study = optuna.create_study(storage=storage, direction="maximize", sampler=RandomSampler(seed=0))
                for _ in range(load.trials):
                    one_trial(study)

        run(replace(load, jobs=1, trials=load.parallel))
        spent = timed(lambda: run(load))
        close_storage(storage)
    return spent
