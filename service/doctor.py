"""Looks at what a server needs on this machine, and says what to do about what is missing.

Nothing is changed, and nothing is started: a Ray cluster is knocked at, a database is asked for its tables.
"""

from __future__ import annotations

import os
import platform
import subprocess  # a fixed command  # nosec B404
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from fixnorm_core.disk import free_bytes, nearest_existing, size_text
from fixnorm_core.extras import install_command

if TYPE_CHECKING:
    from service.settings import Settings

__all__ = ["CHECKS", "Condition", "Finding", "examine"]

_OLDEST_PYTHON = (3, 11)
_LITTLE_SPACE_BYTES = 5 * 2**30


class Condition(StrEnum):
    """How well something is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one thing found.

    Attributes:
        what: The thing.
        condition: How well it is.
        says: What was found, in a sentence.
        way_out: What to do about it; empty where there is nothing to do.
    """

    what: str
    condition: Condition
    says: str
    way_out: str = ""


def examine(*, state_dir: Path | None = None) -> Iterator[Finding]:
    """Looks at one thing after another. A look that fails in a way that nobody thought of is a finding too.

    Args:
        state_dir: What ``--state-dir`` would be; None for the environment's, or the usual one.
    """
    _state_dir.set(state_dir)
    for what, look in CHECKS.items():
        try:
            yield look(what)
        except ModuleNotFoundError as error:  # a distribution that is not there, too
            way_out = f"Install the server too: {install_command('server')}"
            yield Finding(what, Condition.PROBLEM, f"the package {error.name} is not installed", way_out)
        except Exception as error:  # the boundary: a broken installation may raise anything
            yield Finding(what, Condition.PROBLEM, f"{type(error).__name__}: {error}")


def _python(what: str) -> Finding:
    if sys.version_info < _OLDEST_PYTHON:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        return Finding(what, Condition.PROBLEM, platform.python_version(), f"Install Python {oldest} or newer")
    return Finding(what, Condition.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch(what: str) -> Finding:
    pair = f"torch {version('torch')} and torchvision {version('torchvision')}"
    try:
        from fixnorm_core.vision import torchvision  # noqa: F401 - whether they can be imported together is the question
    except (ImportError, OSError, RuntimeError) as error:
        way_out = f"Install versions that do: {install_command('server')}"
        return Finding(what, Condition.PROBLEM, f"{pair} do not work together: {error}", way_out)
    if trouble := _trouble_in_own_code():
        says = f"{pair}; trials can use them, but 'import torchvision' in code of your own fails: {trouble}"
        way_out = "Write 'from fixnorm_core.vision import torchvision' there, or install both in one build"
        return Finding(what, Condition.WARNING, says, way_out)
    return Finding(what, Condition.OK, pair)


def _trouble_in_own_code() -> str:
    """Why a program that knows nothing of :mod:`fixnorm_core.vision` cannot import torchvision; empty if it can.

    A process of its own finds out: what was declared in this one would hide it.
    """
    command = [sys.executable, "-c", "import torchvision"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)  # nosec B603
    if tried.returncode == 0:
        return ""
    return (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]


def _cuda(what: str) -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding(what, Condition.OK, f"{', '.join(names)} (CUDA {torch.version.cuda})")
    if torch.version.cuda is None:
        way_out = "With a GPU in this machine, install a CUDA build of torch; without one, trials run on CPUs"
        return Finding(what, Condition.WARNING, "this torch is built for CPUs only", way_out)
    return Finding(
        what, Condition.WARNING, "no GPU is seen", "Trials run on CPUs. 'nvidia-smi' says what the driver sees"
    )


def _ray(what: str) -> Finding:
    from worker.ray_cluster import look_for

    found = f"Ray {version('ray')}"
    if (address := _settings().ray_address) is None:
        return Finding(what, Condition.OK, f"{found}, which the server starts on this machine")
    try:
        look_for(address)
    except ConnectionError as error:
        way_out = "Start it with 'ray start --head', correct RAY_ADDRESS, or unset it: the server then starts its own"
        return Finding(what, Condition.PROBLEM, f"{found}, but no cluster for RAY_ADDRESS {address}: {error}", way_out)
    return Finding(what, Condition.OK, f"{found}, which the server joins at {address}")


def _database(what: str) -> Finding:
    from sqlalchemy import create_engine, inspect, make_url
    from sqlalchemy.exc import SQLAlchemyError

    from service.database.connections import engine_options
    from service.database.troubles import Trouble, describe, trouble_of

    settings = _settings()
    url = make_url(settings.url)
    if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).exists()):
        return Finding(what, Condition.OK, f"the server will make {url!r}")
    engine = create_engine(url, **engine_options(settings.url))
    try:
        with engine.connect() as connection:
            made = inspect(connection).has_table("jobs")
    except SQLAlchemyError as error:
        way_out = "Start it, correct FIXNORM_DATABASE_URL, or unset it for an SQLite file"
        says = describe(trouble_of(error) or Trouble.UNAVAILABLE, error, url=settings.url)
        return Finding(what, Condition.PROBLEM, says, way_out)
    finally:
        engine.dispose()
    return Finding(what, Condition.OK, f"{url!r} {'has our tables' if made else 'answers, and has no tables yet'}")


def _disk(what: str) -> Finding:
    folder = _settings().state_dir
    there = nearest_existing(folder)
    if not os.access(there, os.W_OK):
        return Finding(what, Condition.PROBLEM, f"{there} cannot be written", "Give another folder with --state-dir")
    free = free_bytes(folder)
    says = f"{folder}: {size_text(free)} free"
    if free < _LITTLE_SPACE_BYTES:
        way_out = "Checkpoints and weights of every trial go there: free some, or give another with --state-dir"
        return Finding(what, Condition.WARNING, says, way_out)
    return Finding(what, Condition.OK, says)


def _artifacts(what: str) -> Finding:
    from fixnorm_core.errors import DataError
    from service.administration import open_files

    store = open_files(_settings()).store
    if store is None:
        return Finding(what, Condition.OK, "in the state folder, which nodes have to see under the same path")
    try:
        store.check()
    except DataError as error:
        return Finding(what, Condition.PROBLEM, error.rule, error.way_out)
    return Finding(what, Condition.OK, f"{store.url} can be written, listed and read from here")


def _dashboard(what: str) -> Finding:
    import optuna_dashboard

    return Finding(what, Condition.OK, f"Optuna {version('optuna')}, its dashboard {optuna_dashboard.__version__}")


def _settings() -> Settings:
    from service.settings import Settings

    given = _state_dir.get()
    return Settings() if given is None else Settings(state_dir=given)


_state_dir: ContextVar[Path | None] = ContextVar("state_dir", default=None)
"""The looks take no settings: they read them, so that what cannot be read is a finding."""


CHECKS: dict[str, Callable[[str], Finding]] = {
    "Python": _python,
    "torch": _torch,
    "GPU": _cuda,
    "Ray": _ray,
    "database": _database,
    "disk": _disk,
    "artifacts": _artifacts,
    "dashboard": _dashboard,
}
"""What is looked at, in this order."""
