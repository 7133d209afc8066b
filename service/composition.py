"""Puts a server together: the one place that knows which concrete parts are used."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import assert_never

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage
from prometheus_client import CollectorRegistry
from sqlalchemy import make_url, select
from sqlalchemy.exc import ArgumentError
from starlette.types import ASGIApp

from fixnorm_core.disk import full_disk, no_space_at
from fixnorm_core.errors import FixNormError
from service.app import create_app
from service.clock import utc_now
from service.database.engine import Database
from service.database.migrate import upgrade
from service.database.postgres import one_at_a_time
from service.database.rows import LeaseRow
from service.database.troubles import DATABASE_ERRORS, Trouble, describe, trouble_of
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.lease import DISPATCHER, Lease
from service.metrics.meters import Meters
from service.metrics.shared import SharedState
from service.metrics.transactions import TransactionTimes
from service.queue.share import UNLIMITED, Rules
from service.runtime import Runtime
from service.settings import BackendName, Settings
from service.studies.storage import close_storage, engine_of, open_mirror, open_reading_storage
from service.studies.studies import Studies
from service.webhooks.courier import Courier
from service.webhooks.signature import load_secret
from worker.contracts import Backend, Resources

__all__ = ["CannotStart", "Service", "StateFolderInUse", "build"]


class StateFolderInUse(FixNormError):
    """Another server works on the same state folder."""

    code = "state_folder_in_use"


class CannotStart(FixNormError):
    """Something that the settings name cannot be used."""

    code = "cannot_start"


@dataclass(frozen=True, slots=True)
class Service:
    """A whole server that has not begun to serve.

    Attributes:
        app: Its ASGI application; the lifespan starts and closes the dispatcher.
        dispatcher: The dispatcher.
        runtime: What the handlers use.
        start: Starts the dispatcher, or raises CannotStart; the app's lifespan calls it too. Idempotent.
        close: Gives everything back; the app's lifespan calls it too. Idempotent.
    """

    app: ASGIApp
    dispatcher: Dispatcher
    runtime: Runtime
    start: Callable[[], None]
    close: Callable[[], None]


def build(
    settings: Settings,
    *,
    backend: Backend | None = None,
    on_ready: Callable[[], None] | None = None,
    now: Callable[[], datetime] = utc_now,
) -> Service:
    """Builds a server.

    Args:
        settings: Its settings.
        backend: Where trials run; None makes the one that the settings name.
        on_ready: Called when the server is about to answer requests.
        now: The wall clock, in UTC.

    Raises:
        StateFolderInUse: If another server works on the state folder or its database.
        CannotStart: If the folder, the database or Ray cannot be used.
    """
    lock = _claim_state_folder(settings)
    try:
        with _having_room(settings):
            database, studies, reader = _open_database(settings)
            secret = _webhook_secret(settings)
        backend = backend or _backend(settings, database)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    holder = f"{socket.gethostname()}:{os.getpid()}"
    lease = Lease(database, holder, timedelta(seconds=settings.lease_seconds), alone=lock is not None, now=utc_now)
    meters = Meters()
    rest = timedelta(seconds=settings.retry_seconds)
    rules = _rules(settings)
    dispatcher = Dispatcher(
        database, lease, studies, backend, settings.state_dir, now, settings.poll_interval, rest, meters, rules
    )
    nodes = tuple(backend.nodes())  # a backend is its dispatcher's alone; requests are answered from what it has now
    capacity = Resources.together(nodes)
    meters.registry.register(SharedState(database, lambda: capacity, lambda: dispatcher.leads, settings.state_dir))

    _time_transactions(database, studies, reader, registry=meters.registry)
    courier = Courier(database, secret, settings.webhook_private, now, meters)

    def begin() -> None:
        with _having_room(settings):
            dispatcher.start()

    def start() -> None:
        begin()
        courier.start()
        if on_ready is not None:
            on_ready()

    def close() -> None:
        courier.close()
        dispatcher.close()
        for storage in (studies.storage, reader):
            close_storage(storage)
        database.close()
        if lock is not None:
            lock.release()

    runtime = Runtime(
        settings,
        database,
        reader,
        lambda: nodes,
        lambda: dispatcher.leads,
        dispatcher.wake,
        studies.storage.known,
        dispatcher.expected,
        rules,
        now,
        meters.registry,
        lambda: dispatcher.trouble,
    )
    return Service(create_app(runtime, start=start, close=close), dispatcher, runtime, begin, close)


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


def _time_transactions(
    database: Database, studies: Studies, reader: BaseStorage, *, registry: CollectorRegistry
) -> None:
    times = TransactionTimes(registry)
    for mode, engine in database.engines.items():
        times.watch(engine, tables="jobs", mode=mode)
    times.watch(engine_of(studies.storage), tables="studies", mode="write")
    times.watch(engine_of(reader), tables="studies", mode="read")


@contextmanager
def _having_room(settings: Settings) -> Iterator[None]:
    """Says of a write that had no room what to do."""
    try:
        yield
    except (*DATABASE_ERRORS, OSError) as error:
        if (trouble := trouble_of(error)) is not Trouble.FULL:
            raise
        raise CannotStart(describe(trouble, error, url=settings.url), _FREE_SPACE) from error


_FREE_SPACE = "Free some space there and start again; nothing that was stored is lost"


def _rules(settings: Settings) -> Rules:
    gpus, cpus = settings.user_max_gpus, settings.user_max_cpus
    user_max = Resources(
        UNLIMITED.cpus if cpus is None else cpus,
        UNLIMITED.gpus if gpus is None else gpus,
    )
    return Rules(user_max, timedelta(seconds=settings.reserve_seconds))


def _open_database(settings: Settings) -> tuple[Database, Studies, BaseStorage]:
    try:
        with one_at_a_time(settings.url):
            upgrade(settings.url)
            studies = Studies(open_mirror(settings.url))
        return Database.open(settings.url), studies, open_reading_storage(settings.url)
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"the database {make_url(settings.url)!r} needs the package {error.name!r}, which is not installed",
            "Install PostgreSQL's driver too: pip install 'fixnorm-tune[postgres]'",
        ) from error
    except (*DATABASE_ERRORS, ImportError, OSError) as error:
        if trouble_of(error) is Trouble.FULL:
            raise
        raise CannotStart(
            f"the database {make_url(settings.url)!r} cannot be opened: {error}",
            "Correct FIXNORM_DATABASE_URL, or leave it out for an SQLite file in the state folder",
        ) from error


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


def _namespace(settings: Settings, database: Database) -> str:
    """Of this deployment's slots: they write into its state folder, and what they do is in its database."""
    with database.read() as session:
        deployment = session.scalar(select(LeaseRow.deployment).where(LeaseRow.name == DISPATCHER))
    told = sha256(f"{deployment} {settings.state_dir}".encode()).hexdigest()
    return f"fixnorm-tune-{told[:16]}"


def _lock(settings: Settings) -> FileLock | None:
    """Holds an SQLite file for this process; the system lets go when it dies. PostgreSQL may have many servers."""
    url = make_url(settings.url)
    if url.get_backend_name() != "sqlite":
        return None
    held = Path(f"{url.database}.lock") if url.database else settings.state_dir / "server.lock"
    lock = FileLock(held, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise StateFolderInUse(
            f"another server works on {held.with_suffix('')}, and an SQLite file takes one",
            "Stop it, or give this one another folder with --state-dir; for several servers on the same jobs, set "
            "FIXNORM_DATABASE_URL=postgresql://user:password@host/database for each",
        ) from None
    return lock
