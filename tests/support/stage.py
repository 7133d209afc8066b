"""A server whose jobs stand still until they are moved: what commands print of them is the same every time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flaky import FlakyBackend, flaky
from serving import serving, simulated
from starlette.types import ASGIApp, Receive, Scope, Send

from fixnorm_core.spec import JobSpec
from service.client import Client
from service.composition import Service, build
from service.jobs.folders import trial_folder
from service.schemas import TERMINAL_STATES, JobView
from worker.contracts import FailureKind, log_path
from worker.recording import Recording

VOLATILE = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?", "<time>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", lambda found: re.sub(r"\d", "0", found[0])),  # as wide as it was
    (r"http://127\.0\.0\.1:\d+", "<server>"),
    (r"(?m)^\w+ +(GPU|torch)( +)\S.*(\n {20}.*)*", r"-        \1\2<as it is here>"),
    (r'(?s)("what": "(GPU|torch)",\n).*?\n  \}', r"\1    <as it is here>\n  }"),
    (r"(?m)^(ok +disk +)\S.*(\n {20}.*)*", r"\1<folder>: 512.0 GiB free"),  # in one line, however long it is
    (r"fnt_[0-9a-f]{12}_[\w-]{43}", "fnt_0123456789ab_" + 43 * "x"),
    (r"\b(?=[a-f]*\d)[0-9a-f]{12}\b", "0123456789ab"),
    (r"\b\d+\.\d+\.\d+(\.\w+)*(\+\w+)?", "<version>"),
    (r"<version> on \w+ \w+", "<version> on <system>"),
)
"""What differs from run to run and from machine to machine, and what stands in its place."""


class Hand:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.jobs = 0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        """On the calendar; no two jobs come at once."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds, milliseconds=self.jobs)


@dataclass
class Stage:
    """A server, and its jobs' ids by the names that stand for them.

    Attributes:
        url: The server's address.
        folder: Where its database and its state are.
        jobs: Ids by the names that stand for them in what is printed.
    """

    url: str
    folder: Path
    client: Client
    service: Service
    backend: FlakyBackend
    clock: Hand
    jobs: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, *, cpus: float = 1.0, share: dict[str, Any] | None = None, **budget: Any) -> str:
        """Submits a job, of five trials unless told otherwise, one at a time."""
        spec = Recording.packaged().job.model_dump(mode="json")
        spec["search"] |= {"sampler": "random"}
        spec["budget"] = {"max_trials": 5, "confirm_runs": 2, "max_failures": 2} | budget
        spec |= {"name": name.strip("0").removeprefix("job-"), "resources": {"cpus_per_trial": cpus}}
        self.clock.jobs += 1
        job_id = self.client.submit(JobSpec.model_validate(spec | {"share": share or {}})).id
        assert len(job_id) == len(name)  # or tables would have other widths
        self.jobs[name] = job_id
        return job_id

    def run(self, job_id: str) -> JobView:
        """Runs a job to its end."""
        for _ in range(2000):
            self.move(epochs=1)
            if (job := self.client.job(job_id)).state in TERMINAL_STATES:
                return job
        raise AssertionError(f"{job_id} does not end")

    def move(self, *, epochs: int) -> None:
        """Trains on; what can start, starts."""
        for _ in range(max(1, epochs)):
            self.clock.seconds += epochs > 0
            self.service.dispatcher.wake()
            for _ in range(3):
                self.service.dispatcher.tick()

    def log(self, job_id: str, trial: int, text: str) -> None:
        """Writes a trial's log, which the simulator does not."""
        file = log_path(trial_folder(self.folder / "state", job_id, trial), f"{job_id}.{trial}.1")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def stable(self, text: str) -> str:
        """Without what differs from run to run, and with four digits of what was computed."""
        for name, job_id in self.jobs.items():
            text = text.replace(job_id, name)
        text = text.replace(str(self.folder), "<folder>")
        for pattern, instead in VOLATILE:
            text = re.sub(pattern, instead, text)
        text = re.sub(r"\b\d\.\d{5,}(e-?\d+)?\b", lambda found: f"{float(found[0]):.4g}", text)
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A server of four CPUs without a job."""
    clock = Hand()
    backend = flaky(0, FailureKind.CRASHED)
    backend.clock, backend.epoch_seconds = clock, 1.0
    settings = simulated(folder, database_url=f"sqlite:///{folder / 'fixnorm.db'}")
    service = build(settings, backend=backend, now=clock.now)
    try:
        with serving(_still(service.app)) as url, Client(url) as client:
            yield Stage(url, folder, client, service, backend, clock)
    finally:
        service.close()


def _still(app: ASGIApp) -> ASGIApp:
    """The application without what its lifespan starts: nothing moves by itself."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    return answer
