"""Finds out who calls: from a bearer token, from a browser's session, or from there being no tokens at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from fixnorm_core.spec import JobSpec
from service.access import sessions, tokens
from service.access.failures import FAILURES, WINDOW_SECONDS, Failures
from service.access.scopes import Scope
from service.database.engine import Database
from service.database.rows import JobRow, TokenRow
from service.database.troubles import DATABASE_ERRORS
from service.problems import NotYourName
from service.schemas import Problem

__all__ = ["ANYBODY", "Access", "Caller", "Calling", "Refused", "TokenBackend", "address_of", "cookie_name", "owner_of"]

_USED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Caller(BaseUser):
    """Who calls.

    Attributes:
        scope: What they may do.
        name: The name of their token; None where nobody has to say who they are.
    """

    scope: Scope
    name: str | None = None

    @property
    def is_authenticated(self) -> bool:
        """They are."""
        return True

    @property
    def display_name(self) -> str:
        """For a person."""
        return self.name or "everybody"

    def may_change(self, user: str | None) -> bool:
        """Whether a job of this user is theirs to change."""
        return self.scope is Scope.ADMIN or (self.scope is Scope.SUBMIT and user is not None and user == self.name)

    def owning(self, spec: JobSpec) -> JobSpec:
        """The job as theirs. Whoever has a name shares as that; an administrator may submit for somebody else.

        Raises:
            NotYourName: If it names somebody else, and they are no administrator.
        """
        user = spec.share.user
        if self.name is None or user == self.name or (self.scope is Scope.ADMIN and user is not None):
            return spec
        if user is not None:
            raise NotYourName(
                f"share.user is {user!r}, and this is the token of {self.name}, whose jobs are {self.name}'s",
                f"Leave share.user out, or have an administrator submit it for {user}",
            )
        return spec.model_copy(update={"share": spec.share.model_copy(update={"user": self.name})})


ANYBODY = Caller(Scope.ADMIN)
"""Whoever reaches a server that has no tokens and listens on loopback only."""

_ADMIN_NAME = "admin"


class Refused(AuthenticationError):
    """Somebody was not let in.

    Attributes:
        problem: What to answer.
        retry_seconds: When to ask again; None at no time.
    """

    def __init__(
        self, status: HTTPStatus, code: str, detail: str, way_out: str, *, retry_seconds: int | None = None
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(title=status.phrase, status=status, code=code, detail=detail, way_out=way_out)
        self.retry_seconds = retry_seconds


_GET_ONE = "An administrator makes one: fixnorm-tune token create NAME --scope submit"


@dataclass(frozen=True, slots=True)
class Access:
    """Who is let in, by what the database and the settings say now.

    Attributes:
        required: Whether everybody has to say who they are.
        database: Where tokens and sessions are.
        admin: The digest of the administrator's token of the settings; None when there is none.
        failures: Addresses that have failed.
        now: The wall clock, in UTC.
        open_paths: Where nobody is asked, beside the routes that are open by themselves.
    """

    required: bool
    database: Database
    admin: str | None
    failures: Failures
    now: Callable[[], datetime]
    open_paths: frozenset[str] = frozenset()

    def by_token(self, text: str, *, address: str) -> Caller:
        """Whose token this is.

        Raises:
            Refused: If it is nobody's, was revoked or has expired, or if the address has failed too often.
        """
        return self._judge(text, address)[0]

    def log_in(self, text: str, *, address: str) -> str:
        """Begins a browser's session; returns its cookie.

        Raises:
            Refused: As for :meth:`by_token`.
        """
        _, row = self._judge(text, address)
        token_id, admin = (row.id, None) if row is not None else (None, self.admin)
        with self.database.write.begin() as session:
            return sessions.begin(session, token_id=token_id, admin_digest=admin, now=self.now())

    def by_session(self, cookie: str) -> Caller | None:
        """Whose browser this is; None when the session is over or its token is no good any more."""
        with self.database.read() as session:
            found = sessions.find(session, cookie)
            if found is None or found.ends_at <= self.now():
                return None
            row = tokens.find(session, found.token_id) if found.token_id is not None else None
        if found.admin_digest is not None:
            known = self.admin is not None and tokens.same(found.admin_digest, self.admin)
            return Caller(Scope.ADMIN, _ADMIN_NAME) if known else None
        if row is None or _trouble_with(row, self.now()) is not None:
            return None
        self._note_use(row)
        return Caller(Scope(row.scope), row.name)

    def log_out(self, cookie: str) -> None:
        """Ends a browser's session."""
        with self.database.write.begin() as session:
            sessions.end(session, cookie)

    def _judge(self, text: str, address: str) -> tuple[Caller, TokenRow | None]:
        digest, row = tokens.digest_of(text), self._find(text)
        # Compared also where there is nothing to compare with, so that the time does not tell which ids exist.
        if not tokens.same(digest, row.digest if row is not None else "0" * 64) or row is None:
            return self._judge_chosen(digest, address), None
        if (trouble := _trouble_with(row, self.now())) is not None:
            self.failures.add(address)
            raise Refused(HTTPStatus.UNAUTHORIZED, "token_ended", f"token {row.id} of {row.name} {trouble}", _GET_ONE)
        self._note_use(row)
        return Caller(Scope(row.scope), row.name), row

    def _judge_chosen(self, digest: str, address: str) -> Caller:
        """The token of the settings, which a person may have chosen: a guesser's address has to wait.

        Our own cannot be guessed at any speed. So they are good whoever else is behind the same address, and fails.
        """
        if (wait := self.failures.wait_seconds(address)) > 0:
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too_many_failures",
                f"{FAILURES} tokens from {address} in {WINDOW_SECONDS:g} s were not known here",
                f"Try again in {wait:.0f} s",
                retry_seconds=int(wait) + 1,
            )
        if self.admin is not None and tokens.same(digest, self.admin):
            return Caller(Scope.ADMIN, _ADMIN_NAME)
        self.failures.add(address)
        raise Refused(HTTPStatus.UNAUTHORIZED, "token_unknown", "this token is not known here", _GET_ONE)

    def _find(self, text: str) -> TokenRow | None:
        if (token_id := tokens.id_in(text)) is None:
            return None
        with self.database.read() as session:
            return tokens.find(session, token_id)

    def _note_use(self, row: TokenRow) -> None:
        if row.last_used_at is not None and self.now() - row.last_used_at < _USED_EVERY:
            return
        try:
            with self.database.write.begin() as session:
                tokens.touch(session, row.id, now=self.now())
        except SQLAlchemyError:  # reading goes on where nothing can be stored
            return


def _trouble_with(row: TokenRow, now: datetime) -> str | None:
    if row.revoked_at is not None:
        return f"was revoked at {row.revoked_at:%Y-%m-%d %H:%M} UTC"
    if row.expires_at is not None and row.expires_at <= now:
        return f"expired at {row.expires_at:%Y-%m-%d %H:%M} UTC"
    return None


class TokenBackend(AuthenticationBackend):
    """Starlette's door to :class:`Access`. A request that names nobody passes as nobody; the gate judges that."""

    def __init__(self, access: Access, *, on_database_error: Callable[[str, BaseException], Refused]) -> None:
        self._access = access
        self._on_database_error = on_database_error

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Who a connection says it is.

        Raises:
            Refused: If what it says is not so.
        """
        if not self._access.required:
            return AuthCredentials(), ANYBODY
        try:
            caller = await self._caller(conn)
        except DATABASE_ERRORS as error:
            raise self._on_database_error(conn.url.path, error) from error
        return (AuthCredentials([caller.scope]), caller) if caller is not None else None

    async def _caller(self, conn: HTTPConnection) -> Caller | None:
        if (header := conn.headers.get("authorization")) is not None:
            kind, _, text = header.partition(" ")
            if kind.lower() != "bearer" or not text.strip():
                raise Refused(
                    HTTPStatus.UNAUTHORIZED,
                    "not_authenticated",
                    f"an Authorization header of the kind {kind[:20]!r} is not understood here",
                    "Send 'Authorization: Bearer TOKEN'",
                )
            return await run_in_threadpool(self._access.by_token, text.strip(), address=address_of(conn))
        if (cookie := conn.cookies.get(cookie_name(conn))) is not None:
            return await run_in_threadpool(self._access.by_session, cookie)
        return None


def address_of(conn: HTTPConnection) -> str:
    """Where a request comes from, as far as is known."""
    return conn.client.host if conn.client is not None else "unknown"


def cookie_name(conn: HTTPConnection) -> str:
    """Over https a browser keeps a ``__Host-`` cookie to this host and to https."""
    return "__Host-fixnorm" if conn.url.scheme == "https" else "fixnorm"


def owner_of(job: JobRow) -> str | None:
    """The user of a job as it was submitted; that is not amended."""
    return JobSpec.from_stored(job.spec).share.user


def _calling(request: Request) -> Caller:
    caller = request.user
    assert isinstance(caller, Caller)
    return caller


Calling = Annotated[Caller, Depends(_calling)]
