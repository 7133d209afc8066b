"""Opens what a server's settings name: its state folder, database, object store and trackers, and where trials run.

The one place that names the concrete backends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import assert_never

import structlog
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage
from sqlalchemy import make_url, select
from sqlalchemy.exc import ArgumentError

from fixnorm_core.data.store import BucketDown
from fixnorm_core.disk import full_disk, no_space_at
from fixnorm_core.errors import DataError, FixNormError
from fixnorm_core.extras import install_command
from service.access import tokens
from service.access.callers import Access
from service.access.failures import Failures
from service.access.settled import administrator_of
from service.administration import open_files, sqlite_lock
from service.database.engine import Database
from service.database.migrate import upgrade
from service.database.postgres import one_at_a_time
from service.database.rows import LeaseRow
from service.database.troubles import DATABASE_ERRORS, Trouble, describe, trouble_of
from service.dispatch.lease import DISPATCHER
from service.jobs.files import JobFiles
from service.settings import BackendName, Settings, trackers_hidden
from service.studies.storage import open_mirror, open_reading_storage
from service.studies.studies import Studies
from service.trackers.contracts import Tracker
from service.webhooks.signature import load_secret
from worker.contracts import Backend, Resources

__all__ = ["CannotStart", "Opened", "StateFolderInUse", "having_room", "open_parts"]

log = structlog.get_logger(__name__)


class StateFolderInUse(FixNormError):
    """Another server works on the same state folder."""

    code = "state_folder_in_use"


class CannotStart(FixNormError):
    """Something that the settings name cannot be used."""

    code = "cannot_start"


@dataclass(frozen=True, slots=True)
class Opened:
    """What a server works with.

    Attributes:
        lock: Keeps other servers off an SQLite file; None where there may be several.
        files: Where the files of jobs are.
        trackers: Who is told of jobs.
        database: Ours.
        studies: Optuna's, for writing.
        reader: Optuna's, for reading.
        webhook_secret: What webhooks are signed with.
        access: Who may do what.
        backend: Where trials run.
    """

    lock: FileLock | None
    files: JobFiles
    trackers: Sequence[Tracker]
    database: Database
    studies: Studies
    reader: BaseStorage
    webhook_secret: str
    access: Access
    backend: Backend


def open_parts(settings: Settings, backend: Backend | None, now: Callable[[], datetime]) -> Opened:
    """Opens all of it; a part that cannot be opened leaves the state folder to others.

    Args:
        settings: The server's.
        backend: Where trials run; None makes the one that the settings name.
        now: The wall clock, in UTC.

    Raises:
        StateFolderInUse: If another server works on the state folder or its database.
        CannotStart: If the folder, the database, the object store or Ray cannot be used.
    """
    lock = _claim_state_folder(settings)
    try:
        files = _checked(open_files(settings))
        trackers = list(_trackers(settings))
        with having_room(settings):
            database, studies, reader = _open_database(settings)
            secret = _webhook_secret(settings)
        access = _access(settings, database, now)
        with trackers_hidden():  # a Ray that is started gives its environment to whatever a trial runs
            backend = backend or _backend(settings, database)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    return Opened(lock, files, trackers, database, studies, reader, secret, access, backend)


def _claim_state_folder(settings: Settings) -> FileLock | None:
    """Makes the state folder if it is missing, and keeps other servers off it where it takes one."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        return _lock(settings)
    except (OSError, ArgumentError) as error:
        if full_disk(error) is not None:
            raise CannotStart(no_space_at(settings.state_dir), _FREE_SPACE) from error
        raise CannotStart(
            f"the state folder {settings.state_dir} cannot be used: {error}", "Give another one with --state-dir"
        ) from error


def _checked(files: JobFiles) -> JobFiles:
    """Refuses to start with a store that will never take anything; one that is down may be back sooner than a trial."""
    if files.store is None:
        return files
    try:
        files.store.check()
    except BucketDown as error:
        log.warning("artifacts.store_down", reason=error.rule)
    except DataError as error:
        raise CannotStart(error.rule, error.way_out) from None
    return replace(files, store=replace(files.store, excused=True))  # from now on what it refuses is no caller's fault


@contextmanager
def having_room(settings: Settings) -> Iterator[None]:
    """Says of a write that had no room what to do."""
    try:
        yield
    except (*DATABASE_ERRORS, OSError) as error:
        if (trouble := trouble_of(error)) is not Trouble.FULL:
            raise
        raise CannotStart(describe(trouble, error, url=settings.url), _FREE_SPACE) from error


_FREE_SPACE = "Free some space there and start again; nothing that was stored is lost"


def _open_database(settings: Settings) -> tuple[Database, Studies, BaseStorage]:
    try:
        with one_at_a_time(settings.url):
            upgrade(settings.url)
            studies = Studies(open_mirror(settings.url))
        return Database.open(settings.url), studies, open_reading_storage(settings.url)
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"the database {make_url(settings.url)!r} needs the package {error.name!r}, which is not installed",
            f"Install PostgreSQL's driver too: {install_command('postgres')}",
        ) from error
    except (*DATABASE_ERRORS, ImportError, OSError) as error:
        if trouble_of(error) is Trouble.FULL:
            raise
        raise CannotStart(
            f"the database {make_url(settings.url)!r} cannot be opened: {error}",
            "Correct FIXNORM_DATABASE_URL, or leave it out for an SQLite file in the state folder",
        ) from error


def _access(settings: Settings, database: Database, now: Callable[[], datetime]) -> Access:
    """Tokens are asked for once there has ever been one: when the last is revoked or expires, nobody gets in."""
    admin = administrator_of(settings)
    with database.read() as session:
        required = settings.require_tokens or admin is not None or tokens.exist(session)
    open_paths = frozenset({"/metrics"} if settings.open_metrics else ())
    return Access(required, database, admin, Failures(time.monotonic), now, open_paths)


def _webhook_secret(settings: Settings) -> str:
    given = settings.webhook_secret
    return load_secret(given.get_secret_value() if given else None, file=settings.state_dir / "webhook-secret")


def _backend(settings: Settings, database: Database) -> Backend:
    match settings.backend:
        case BackendName.RAY:
            address = settings.ray_address
            try:
                if address is not None:
                    from worker.backend_process import BackendProcess
                    from worker.ray_cluster import join_cluster

                    join = partial(join_cluster, address, _namespace(settings, database), settings.orphan_seconds)
                    return BackendProcess(join, f"the Ray cluster at {address}")
                from worker.ray_backend import RayBackend

                return RayBackend(cpus=settings.cpus, gpus=settings.gpus)
            except Exception as error:  # the boundary: Ray raises whatever its start runs into
                where = f"at {address}" if address else "on this machine"
                raise CannotStart(
                    f"Ray {where} cannot be used: {error}",
                    "Correct RAY_ADDRESS, --cpus or --gpus; --backend simulator does without Ray",
                ) from error
        case BackendName.SIMULATOR:
            from worker.recording import Recording
            from worker.simulator import SimulatorBackend

            total = Resources(cpus=settings.cpus or 4.0, gpus=settings.gpus or 0.0)
            return SimulatorBackend(Recording.packaged(), total, epoch_seconds=settings.epoch_seconds)
        case _:
            assert_never(settings.backend)


def _trackers(settings: Settings) -> Iterator[Tracker]:
    if settings.tensorboard:
        from service.trackers.tensorboard import TensorBoardTracker

        yield TensorBoardTracker(settings.state_dir)
    if (uri := settings.mlflow_tracking_uri) is not None:
        if find_spec("mlflow") is None:
            raise CannotStart(
                "FIXNORM_MLFLOW_TRACKING_URI is set, which needs the package mlflow, and it is not installed",
                f"Leave the setting out, or install it: {install_command('mlflow')}",
            )
        from service.trackers.mlflow import MlflowTracker

        yield MlflowTracker(uri, settings.mlflow_experiment)


def _namespace(settings: Settings, database: Database) -> str:
    """Of this deployment's slots: they write into its state folder, and what they do is in its database."""
    with database.read() as session:
        deployment = session.scalar(select(LeaseRow.deployment).where(LeaseRow.name == DISPATCHER))
    told = sha256(f"{deployment} {settings.state_dir}".encode()).hexdigest()
    return f"fixnorm-tune-{told[:16]}"


def _lock(settings: Settings) -> FileLock | None:
    """Holds an SQLite file for this process; the system lets go when it dies. PostgreSQL may have many servers."""
    lock = sqlite_lock(settings.url, otherwise=settings.state_dir / "server.lock")
    if lock is None:
        return None
    held = Path(lock.lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise StateFolderInUse(
            f"another server works on {held.with_suffix('')}, and an SQLite file takes one",
            "Stop it, or give this one another folder with --state-dir; for several servers on the same jobs, set "
            "FIXNORM_DATABASE_URL=postgresql://user:password@host/database for each",
        ) from None
    return lock
