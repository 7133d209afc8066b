"""Files of jobs as a real worker would leave them, and what removes them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from service.composition import Service
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
