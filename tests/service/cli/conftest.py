from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from standin import StandIn
from typer.testing import CliRunner, Result

from service.cli import follow
from service.cli.main import app


@pytest.fixture
def server() -> Iterator[StandIn]:
    standin = StandIn()
    yield standin
    standin.stop()


@pytest.fixture
def cli(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs ``fixnorm-tune`` with these arguments against the stand-in server."""
    monkeypatch.setenv("FIXNORM_SERVER", server.url)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.0)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
