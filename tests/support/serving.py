"""Serves an ASGI application over real HTTP, in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from service.settings import BackendName, Settings


def simulated(folder: Path, *, database_url: str) -> Settings:
    """Settings of a server on the simulator that waits for nothing; its state and data are below ``folder``."""
    return Settings(
        database_url=database_url,
        state_dir=folder / "state",
        data_root=folder / "data",
        backend=BackendName.SIMULATOR,
        cpus=4.0,
        poll_interval=timedelta(milliseconds=1),
        retry_seconds=0,
    )


@contextmanager
def serving(app: ASGIApp, *, port: int = 0) -> Iterator[str]:
    """The address of ``app`` on a port of loopback, a free one for 0.

    Its lifespan has begun on entry and ended on exit.
    """
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the application did not start"
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
