"""Files of jobs as a real worker would leave them, and what removes them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import httpx
from waiting import wait_until

from fixnorm_core.spec import JobSpec
from service.client import Client
from service.composition import Service
from service.database.rows import TrackedRow
from service.retention.policy import Policy, What
from service.retention.prune import Pruner
from service.settings import Settings
from service.studies.storage import open_writing_storage

ALL = Policy(timedelta(0), timedelta(0), timedelta(0), keep_best=False)

FILES = {
    "trials/0000/.checkpoint-000001.pt.abc.partial": What.SCRATCH,
    "best/.weights.safetensors.abc.partial": What.SCRATCH,
    "trials/0000/checkpoint-000002.pt": What.CHECKPOINTS,
    "trials/0000/checkpoint-000003.pt.0123.unused": What.CHECKPOINTS,
    "trials/0000/logs/1.log": What.LOGS,
    "trials/0000/weights.safetensors": What.JOB,
    "trials/0000/record.json": What.JOB,
    "best/weights.safetensors": What.JOB,
}


def three_ended(service: Service, http: httpx.Client, spec: JobSpec) -> list[str]:
    """Three jobs that have ended, oldest first, with files as a real worker would leave them, and told to the trackers.

    One that a tracker has still to be told of would stay.
    """
    with Client(str(http.base_url)) as client:
        views = [client.wait(job_id) for job_id in [client.submit(spec).id for _ in range(3)]]
    wait_until(lambda: _untold(service) == 0)
    found = [view.id for view in sorted(views, key=lambda view: (view.ended_at, view.id))]
    for name in found:
        write_files(service.runtime.settings.state_dir / "jobs" / name)
    return found


def _untold(service: Service) -> int:
    with service.runtime.database.read() as session:
        return session.query(TrackedRow).filter(TrackedRow.complete.is_(False)).count()


def write_files(folder: Path) -> None:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 1000)


def files_of(settings: Settings, job_id: str) -> set[str]:
    folder = settings.state_dir / "jobs" / job_id
    return {name for name in FILES if (folder / name).exists()}


def of(*kinds: What) -> set[str]:
    return {name for name, kind in FILES.items() if kind not in kinds}


def pruner(service: Service, policy: Policy, *, later: timedelta = timedelta(days=1)) -> Pruner:
    runtime = service.runtime
    url = runtime.settings.url
    return Pruner(
        runtime.database,
        lambda: open_writing_storage(url),
        runtime.settings.state_dir,
        policy,
        lambda: runtime.now() + later,
    )
