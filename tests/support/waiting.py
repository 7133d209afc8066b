"""Waits for jobs over HTTP, and for whatever else comes to be."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from service.schemas import TERMINAL_STATES, JobView


def wait_for(client: httpx.Client, job_id: str, *, seconds: float = 120.0) -> JobView:
    """Polls until the job has ended, ever less often: a look takes the server as long as a simulated epoch."""
    deadline, pause = time.monotonic() + seconds, 0.02
    while time.monotonic() < deadline:
        view = JobView.model_validate(client.get(f"/api/v1/jobs/{job_id}").json())
        if view.state in TERMINAL_STATES:
            return view
        time.sleep(pause)
        pause = min(1.3 * pause, 0.1)
    raise AssertionError(f"{job_id} did not end: {view}")


def wait_until(so: Callable[[], bool], *, seconds: float = 120.0) -> None:
    """Polls until something is so."""
    deadline = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)
