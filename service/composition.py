"""Puts a server together: the one place that knows which concrete parts are used."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from filelock import FileLock
from optuna.storages import BaseStorage
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from service.app import create_app
from service.clock import utc_now
from service.database.engine import Database
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.lease import Lease
from service.metrics.meters import Meters
from service.metrics.shared import SharedState
from service.metrics.store import StoreWatch
from service.metrics.transactions import TransactionTimes
from service.opening import Opened, having_room, open_parts
from service.queue.share import UNLIMITED, Rules
from service.retention.janitor import Janitor
from service.retention.prune import Pruner, policy_of
from service.runtime import Runtime
from service.settings import Settings
from service.studies.storage import close_storage, engine_of, open_writing_storage
from service.studies.studies import Studies
from service.trackers.follower import Follower
from service.webhooks.courier import Courier
from worker.contracts import Backend, Resources

__all__ = ["Service", "build"]


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


class _Thread(Protocol):
    """What runs beside the dispatcher."""

    def start(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Life:
    """Of a server: what is started, and closed in the opposite order."""

    settings: Settings
    lock: FileLock | None
    database: Database
    stores: Sequence[BaseStorage]
    dispatcher: Dispatcher
    beside: Sequence[_Thread]
    on_ready: Callable[[], None] | None

    def begin(self) -> None:
        """Only what decides and runs."""
        with having_room(self.settings):
            self.dispatcher.start()

    def start(self) -> None:
        """All of it."""
        self.begin()
        for each in self.beside:
            each.start()
        if self.on_ready is not None:
            self.on_ready()

    def close(self) -> None:
        """All of it, whether it was started or not."""
        for each in reversed(self.beside):
            each.close()
        self.dispatcher.close()
        for store in self.stores:
            close_storage(store)
        self.database.close()
        if self.lock is not None:
            self.lock.release()


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
        CannotStart: If the folder, the database, the object store or Ray cannot be used.
    """
    opened = open_parts(settings, backend, now)
    database, studies, files = opened.database, opened.studies, opened.files
    holder, alone = f"{socket.gethostname()}:{os.getpid()}", opened.lock is not None
    term = timedelta(seconds=settings.lease_seconds)
    lease = Lease(database, holder, term, alone=alone, now=utc_now)
    meters = Meters()
    rest = timedelta(seconds=settings.retry_seconds)
    rules, reach = _rules(settings), settings.reach(tokens=opened.access.required)
    dispatcher = Dispatcher(
        database,
        lease,
        studies,
        opened.backend,
        files,
        now,
        settings.poll_interval,
        rest,
        meters,
        rules,
        timedelta(seconds=settings.quarantine_seconds),
        reach,
    )
    _time_transactions(database, studies, opened.reader, registry=meters.registry)
    courier = Courier(database, opened.webhook_secret, settings.webhook_private, now, meters)
    storage = partial(open_writing_storage, settings.url)
    pruner = Pruner(database, storage, settings.state_dir, policy_of(settings), now, settings.trackers, files.store)
    janitor, watch = Janitor(pruner, lambda: dispatcher.leads), StoreWatch(files.store, meters)
    followers = [Follower(tracker, database, lambda: dispatcher.leads, time.monotonic) for tracker in opened.trackers]
    stores = (studies.storage, opened.reader)
    life = _Life(settings, opened.lock, database, stores, dispatcher, [courier, *followers, janitor, watch], on_ready)
    runtime = _runtime(settings, opened, dispatcher, meters, now)
    meters.registry.register(SharedState(runtime))
    return Service(create_app(runtime, start=life.start, close=life.close), dispatcher, runtime, life.begin, life.close)


def _runtime(
    settings: Settings, opened: Opened, dispatcher: Dispatcher, meters: Meters, now: Callable[[], datetime]
) -> Runtime:
    """What requests are answered from: a backend is its dispatcher's alone, and they are told what that has seen."""
    nodes = dispatcher.nodes
    return Runtime(
        settings,
        opened.access,
        opened.database,
        opened.reader,
        lambda: tuple(nodes.known.values()),
        lambda: nodes.layout if dispatcher.leads else nodes.present,
        lambda: dispatcher.leads,
        dispatcher.wake,
        opened.studies.storage.known,
        dispatcher.expected,
        dispatcher.rules,
        dispatcher.reach,
        now,
        meters.registry,
        lambda: dispatcher.trouble,
        opened.files,
    )


def _rules(settings: Settings) -> Rules:
    gpus, cpus = settings.user_max_gpus, settings.user_max_cpus
    user_max = Resources(
        UNLIMITED.cpus if cpus is None else cpus,
        UNLIMITED.gpus if gpus is None else gpus,
    )
    return Rules(user_max, timedelta(seconds=settings.reserve_seconds))


def _time_transactions(
    database: Database, studies: Studies, reader: BaseStorage, *, registry: CollectorRegistry
) -> None:
    times = TransactionTimes(registry)
    for mode, engine in database.engines.items():
        times.watch(engine, tables="jobs", mode=mode)
    times.watch(engine_of(studies.storage), tables="studies", mode="write")
    times.watch(engine_of(reader), tables="studies", mode="read")
