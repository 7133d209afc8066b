"""What an operator does to a database without a server: bring its tables up to date, make tokens, prune."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import make_url

from fixnorm_core.artifacts import ArtifactStore
from fixnorm_core.data.store import Pace
from fixnorm_core.errors import FixNormError
from fixnorm_core.extras import install_command
from service.access import tokens
from service.access.scopes import Scope
from service.clock import utc_now
from service.database.engine import Database
from service.database.migrate import is_current, upgrade
from service.database.postgres import one_at_a_time
from service.database.rows import TokenRow
from service.database.troubles import DATABASE_ERRORS
from service.jobs.files import JobFiles
from service.retention.policy import Policy, Pruned
from service.retention.prune import Pruner, policy_of
from service.settings import Settings
from service.studies.storage import is_up_to_date, open_writing_storage, upgrade_tables

__all__ = [
    "CannotPrune",
    "DatabaseNotUsable",
    "NoStateFolder",
    "create_token",
    "has_usable_token",
    "list_tokens",
    "missing_database",
    "open_files",
    "policy_of",
    "prune",
    "revoke_tokens",
    "sqlite_lock",
    "upgrade_database",
]

_LOCK_SECONDS = 10.0


class DatabaseNotUsable(FixNormError):
    """The database cannot be opened or brought up to date."""

    code = "database_not_usable"


class NoStateFolder(FixNormError):
    """No server has worked there yet: nothing is there to be looked at."""

    code = "no_state_folder"


class CannotPrune(FixNormError):
    """The files of jobs cannot be looked at."""

    code = "cannot_prune"


def missing_database(settings: Settings) -> Path | None:
    """The database's file, if it is one that is not there yet and would be made."""
    url = make_url(settings.url)
    file = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
    return None if file is None or file.exists() else file


def upgrade_database(settings: Settings) -> bool:
    """Makes our tables and Optuna's, or brings them to the newest schema; one at a time, whoever else tries.

    Returns:
        Whether there was anything to do.

    Raises:
        DatabaseNotUsable: If the database cannot be opened, or a server of an older release works on its SQLite file.
    """
    with _named(settings):
        if _is_current(settings):
            return False
        with _alone(settings):
            if _is_current(settings):  # somebody else has done it meanwhile
                return False
            upgrade(settings.url)
            upgrade_tables(settings.url)
            return True


def has_usable_token(settings: Settings) -> bool:
    """Whether the database has a token that lets somebody in now.

    Raises:
        DatabaseNotUsable: As for :func:`upgrade_database`.
    """
    with _opened(settings) as database, database.read() as session:
        return tokens.exist(session, usable_at=utc_now())


def create_token(settings: Settings, name: str, scope: Scope, *, lifetime: timedelta | None) -> tuple[str, TokenRow]:
    """Makes a token; its text is told here and never again.

    Raises:
        DatabaseNotUsable: As for :func:`upgrade_database`.
        TokenError: If the name is none.
    """
    with _opened(settings) as database, database.write.begin() as session:
        return tokens.create(session, name, scope, now=utc_now(), lifetime=lifetime)


def list_tokens(settings: Settings) -> Sequence[TokenRow]:
    """All tokens that there ever were, oldest first.

    Raises:
        DatabaseNotUsable: As for :func:`upgrade_database`.
        NoStateFolder: If there is no database.
    """
    _require_database(settings)
    with _opened(settings) as database, database.read() as session:
        return tokens.find_all(session)


def revoke_tokens(settings: Settings, which: str) -> Sequence[TokenRow]:
    """Ends the token of an id or all of a name, with their sessions; returns those that were ended now.

    Raises:
        DatabaseNotUsable: As for :func:`upgrade_database`.
        NoStateFolder: If there is no database.
        TokenNotFound: If there is none.
    """
    _require_database(settings)
    with _opened(settings) as database, database.write.begin() as session:
        return tokens.revoke(session, which, now=utc_now())


def prune(settings: Settings, policy: Policy, *, dry_run: bool) -> Sequence[Pruned]:
    """Removes what a policy lets go of ended jobs, beside a running server too; what that was, or would be.

    Raises:
        DatabaseNotUsable: As for :func:`upgrade_database`.
        NoStateFolder: If there is no state folder, or no database.
        CannotPrune: If the state folder cannot be read or locked.
        PruningAlready: If another process does it now.
        ForeignFolder: If jobs would go of which the state folder knows nothing.
    """
    if not settings.state_dir.is_dir():
        raise NoStateFolder(f"there is no state folder {settings.state_dir}", _EXISTING)
    _require_database(settings)
    with _opened(settings) as database:
        storage = partial(open_writing_storage, settings.url)
        store = open_files(settings).store
        pruner = Pruner(database, storage, settings.state_dir, policy, utc_now, settings.trackers, store)
        try:
            return pruner.plan() if dry_run else list(pruner.prune())
        except OSError as error:
            raise CannotPrune(
                f"the state folder {settings.state_dir} cannot be pruned: {error}",
                "Run it as the account that the server runs under, or correct --state-dir",
            ) from error


def open_files(settings: Settings) -> JobFiles:
    """Where the files of jobs are. Nothing is asked yet."""
    store = ArtifactStore(settings.artifacts, pace=Pace.QUICK) if settings.artifacts is not None else None
    scratch = str(settings.scratch) if settings.scratch is not None else None
    return JobFiles(settings.state_dir, store, scratch)


def sqlite_lock(url: str, *, otherwise: Path) -> FileLock | None:
    """What a server holds as long as it works on an SQLite file; None for a database that takes several servers.

    Args:
        url: Of the database.
        otherwise: The lock of an SQLite database that is no file.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    return FileLock(f"{parsed.database}.lock" if parsed.database else otherwise, thread_local=False)


_EXISTING = (
    "Give the folder that the server works in: --state-dir, or FIXNORM_STATE_DIR and FIXNORM_DATABASE_URL; "
    "'fixnorm-tune serve' makes a new one"
)


def _require_database(settings: Settings) -> None:
    if (missing := missing_database(settings)) is not None:
        raise NoStateFolder(f"there is no database {missing}", _EXISTING)


def _is_current(settings: Settings) -> bool:
    return missing_database(settings) is None and is_current(settings.url) and is_up_to_date(settings.url)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    lock = sqlite_lock(settings.url, otherwise=settings.state_dir / "server.lock")
    if lock is None:
        with one_at_a_time(settings.url):
            yield
        return
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock.acquire(timeout=_LOCK_SECONDS):
            yield
    except Timeout:
        raise DatabaseNotUsable(
            f"a server of another release works on {lock.lock_file.removesuffix('.lock')}, whose tables are older",
            "Stop it first; it is started again by this release",
        ) from None


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    upgrade_database(settings)
    with _named(settings):
        database = Database.open(settings.url)
        try:
            yield database
        finally:
            database.close()


@contextmanager
def _named(settings: Settings) -> Iterator[None]:
    """Says of a database that cannot be used which one it is, without its password."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise DatabaseNotUsable(
            f"the database {make_url(settings.url)!r} needs the package {error.name!r}, which is not installed",
            f"Install PostgreSQL's driver too: {install_command('postgres')}",
        ) from error
    except (*DATABASE_ERRORS, OSError) as error:
        raise DatabaseNotUsable(
            f"the database {make_url(settings.url)!r} cannot be used: {error}",
            "Correct FIXNORM_DATABASE_URL or --state-dir",
        ) from error
