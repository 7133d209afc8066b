"""How fast the server of ``fixnorm-tune serve`` answers, and what memory it takes: a process of its own, no Ray."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from processes import ServerProcess
from sqlalchemy import insert

from fixnorm_core.spec import JobSpec
from fixnorm_core.tuning.attributes import SEED
from service.composition import build
from service.database.engine import Database
from service.database.rows import AttemptKind, AttemptRow, AttemptState, JobRow
from service.schemas import BestView, JobState
from service.settings import BackendName, Settings

from .null import SPACE, job, null_result, score
from .timing import cpu_seconds

__all__ = ["burst", "fill", "latencies", "memory_mib", "server"]


@contextmanager
def server(folder: Path, state_dir: Path, **settings: Any) -> Iterator[ServerProcess]:
    """A server that answers, on the simulator."""
    process = ServerProcess("server", folder, state_dir=state_dir, **settings)
    process.start()
    try:
        process.wait()
        yield process
    finally:
        process.stop()


def memory_mib(process: ServerProcess) -> float:
    """Resident memory of a server's process."""
    return float(psutil.Process(process.pid).memory_info().rss) / 2**20


def burst(address: str, *, clients: int, rounds: int, pause: float = 0.2) -> tuple[list[float], int]:
    """``POST /jobs`` by so many clients at the same moment, each on a connection of its own that is open already.

    Returns:
        Seconds until each answer, and how many were no 201.
    """
    body = json.dumps(job(trials=4, parallel=1, epochs=1)).encode()
    return asyncio.run(_burst(address, body, clients, rounds, pause))


async def _burst(address: str, body: bytes, clients: int, rounds: int, pause: float) -> tuple[list[float], int]:
    url = urlsplit(address)
    head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    streams = [await asyncio.open_connection(url.hostname, url.port) for _ in range(clients)]
    seconds, errors = [], 0
    for _ in range(rounds):
        answers = await asyncio.gather(*(_ask(reader, writer, request) for reader, writer in streams))
        seconds += [took for took, _ in answers]
        errors += sum(status != 201 for _, status in answers)
        await asyncio.sleep(pause)
    for _, writer in streams:
        writer.close()
    return seconds, errors


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[float, int]:
    begun = time.perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    took = time.perf_counter() - begun
    lines = head.decode().lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    await reader.readexactly(length)
    return took, int(lines[0].split()[1])


def latencies(server: ServerProcess, jobs: list[str], *, requests: int) -> dict[str, dict[str, Any]]:
    """Seconds of listing jobs, showing one and listing its trials, one request after the other, and the server's CPU.

    The first few import and fill caches, and are not counted.
    """
    die, process = random.Random(0), psutil.Process(server.pid)
    ways: dict[str, Callable[[], str]] = {
        "GET /jobs": lambda: "/jobs",
        "GET /jobs/{id}": lambda: f"/jobs/{die.choice(jobs)}",
        "GET /jobs/{id}/trials": lambda: f"/jobs/{die.choice(jobs)}/trials",
    }
    found = {}
    with httpx.Client(base_url=f"{server.url}/api/v1", timeout=60) as client:
        for name, path in ways.items():
            for _ in range(3):
                client.get(path()).raise_for_status()
            seconds, cpu = [], cpu_seconds(process)
            for _ in range(requests):
                begun = time.perf_counter()
                client.get(path()).raise_for_status()
                seconds.append(time.perf_counter() - begun)
            found[name] = {"seconds": seconds, "cpu": (cpu_seconds(process) - cpu) / requests}
    return found


def fill(state_dir: Path, *, jobs: int, trials: int, epochs: int = 12) -> list[str]:
    """Stores jobs with all that their trials leave: half of them succeeded, half paused just before their end.

    Many rows a statement, ours and Optuna's, into the tables as the server makes them. Returns the jobs' ids.
    """
    settings = Settings(state_dir=state_dir, backend=BackendName.SIMULATOR)
    build(settings).close()  # makes the tables
    database = Database.open(settings.url)
    ids = [f"job-{number:010x}" for number in range(jobs)]
    begun = datetime.now(UTC) - timedelta(minutes=jobs)
    for first in range(0, jobs, 50):
        some = range(first, min(first + 50, jobs))
        with database.write.begin() as session:
            for table, rows in _rows(some, ids, trials, epochs, begun).items():
                session.execute(insert(table), rows)
    database.close()
    return ids


def _rows(numbers: range, ids: list[str], trials: int, epochs: int, begun: datetime) -> dict[Any, list[dict[str, Any]]]:
    """Of all tables, for some jobs; every other one has ended."""
    spec = JobSpec.model_validate(job(trials=trials, parallel=1, epochs=epochs)).model_dump(mode="json")
    result = null_result(0.5, epochs).model_dump(mode="json")
    rows: dict[Any, list[dict[str, Any]]] = {table: [] for table in (JobRow, AttemptRow, *_OPTUNAS)}
    for place in numbers:
        die, job_id, at, study_id = random.Random(place), ids[place], begun + timedelta(minutes=place), place + 1
        rows[JobRow].append(_job_row(job_id, spec, study_id, at, has_ended=place % 2 == 0))
        rows[models.StudyModel].append({"study_id": study_id, "study_name": job_id})
        rows[models.StudyDirectionModel].append(
            {"study_id": study_id, "direction": StudyDirection.MAXIMIZE, "objective": 0}
        )
        for number in range(trials):
            rows[AttemptRow].append(_attempt_row(job_id, number, result, at))
            point = {name: die.uniform(*ends) for name, ends in SPACE.items()}
            found = _trial_rows(place * trials + number + 1, number, study_id, point, epochs, at)
            for table, of_trial in found.items():
                rows[table] += of_trial
    return rows


def _job_row(job_id: str, spec: dict[str, Any], study_id: int, at: datetime, *, has_ended: bool) -> dict[str, Any]:
    return {
        "id": job_id,
        "name": "null",
        "state": JobState.SUCCEEDED if has_ended else JobState.PAUSED,
        "reason": "max_trials is used up" if has_ended else "paused by request",
        "spec": spec,
        "cancel_requested": False,
        "result": _best(dict.fromkeys(SPACE, 1.0)).model_dump(mode="json") if has_ended else None,
        "created_at": at,
        "started_at": at,
        "ended_at": at if has_ended else None,
        "study_id": study_id,
    }


def _attempt_row(job_id: str, number: int, result: dict[str, Any], at: datetime) -> dict[str, Any]:
    return {
        "id": f"{job_id}.{number}.1",
        "job_id": job_id,
        "kind": AttemptKind.TRAIN,
        "trial_number": number,
        "state": AttemptState.COMPLETE,
        "reason": "",
        "result": result,
        "created_at": at,
        "ended_at": at,
    }


def _trial_rows(
    trial_id: int, number: int, study_id: int, point: dict[str, float], epochs: int, at: datetime
) -> dict[Any, list[dict[str, Any]]]:
    """Of one trial in Optuna's tables."""
    accuracy = score(**point)
    finite = models.TrialValueModel.TrialValueType.FINITE
    reported = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    times = {"datetime_start": at, "datetime_complete": at}
    rows: dict[Any, list[dict[str, Any]]] = {
        models.TrialModel: [{"number": number, "state": TrialState.COMPLETE, "study_id": study_id, **times}],
        models.TrialParamModel: [
            {"param_name": name, "param_value": value, "distribution_json": _DISTRIBUTIONS[name]}
            for name, value in point.items()
        ],
        models.TrialValueModel: [{"objective": 0, "value": accuracy, "value_type": finite}],
        models.TrialIntermediateValueModel: [
            {"step": epoch, "intermediate_value": accuracy, "intermediate_value_type": reported}
            for epoch in range(1, epochs + 1)
        ],
        models.TrialUserAttributeModel: [{"key": SEED, "value_json": str(number)}],
    }
    return {table: [{"trial_id": trial_id, **row} for row in own] for table, own in rows.items()}


_DISTRIBUTIONS = {name: distribution_to_json(FloatDistribution(*ends, log=True)) for name, ends in SPACE.items()}
_OPTUNAS = (
    models.StudyModel,
    models.StudyDirectionModel,
    models.TrialModel,
    models.TrialParamModel,
    models.TrialValueModel,
    models.TrialIntermediateValueModel,
    models.TrialUserAttributeModel,
)


def _best(params: dict[str, float]) -> BestView:
    return BestView(
        params=params,
        validation_accuracy=0.5,
        standard_error=0.01,
        standard_error_source="images",
        runs=1,
        trials=(0,),
        confirmed=False,
        weights_trial=0,
        weights=None,
        weights_url=None,
        test=None,
        report=None,
        stop_reason="max_trials is used up",
    )
