"""What a call to the server is made of, apart from how it is sent: one description for both clients.

A verb is a generator that yields steps and is sent what came of each; :mod:`service.client.client`
and :mod:`service.client.async_client` carry the steps out. Neither waits nor connects here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, TypeAlias, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from service.client.errors import ProblemError, ServerUnreachableError, UnexpectedAnswerError
from service.schemas import Problem

__all__ = [
    "EVENTS",
    "Ask",
    "Course",
    "Give",
    "More",
    "Open",
    "Pause",
    "Steps",
    "Stream",
    "ask",
    "call",
    "open_stream",
    "patiently",
]

T = TypeVar("T")

EVENTS = "text/event-stream"
"""The media type of a stream of server-sent events."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request; what comes of it is the whole answer."""

    method: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Open:
    """Send a GET and keep its answer open, in place of the one before; what comes of it is the answer.

    Attributes:
        kind: The media type that the answer must have to be one of this API; any without content has it.
            :class:`More` gives the events of a stream of server-sent events, and the bytes of all others.
        silence: The longest one, in seconds, before the connection counts as broken; None for the client's own.
    """

    path: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    silence: float | None = None

    @property
    def events(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.kind == EVENTS


@dataclass(frozen=True, slots=True)
class More:
    """The next piece of the open answer; None at its end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Give(Generic[T]):
    """Hand something to whoever iterates."""

    item: T


Steps: TypeAlias = Generator[Ask | Open | More | Pause, Any, T]
"""A call with one result. An ``httpx.TransportError`` of a step is thrown in at its ``yield``."""

Stream: TypeAlias = Generator[Ask | Open | More | Pause | Give[T], Any, None]
"""A call with many."""


class Course(Generic[T]):
    """A call on its way: which step is next, and what came of the last one.

    Attributes:
        step: To be carried out and told of; a :class:`Give` to be handed out; None when the call is over.
    """

    def __init__(self, steps: Generator[Any, Any, T]) -> None:
        """Begins."""
        self._steps = steps
        self._result: list[T] = []
        self.step: Ask | Open | More | Pause | Give[Any] | None = None
        self._go(lambda: next(steps))

    def came(self, what: Any = None) -> None:
        """The step was carried out."""
        self._go(lambda: self._steps.send(what))

    def broke(self, error: httpx.TransportError) -> None:
        """The step could not be carried out.

        Raises:
            httpx.TransportError: The call does not go on after that.
        """
        self._go(lambda: self._steps.throw(error))

    def close(self) -> None:
        """Nobody wants the rest."""
        self._steps.close()

    @property
    def result(self) -> T:
        """What came of the whole call; it must be over."""
        return self._result[0]

    def _go(self, on: Callable[[], Any]) -> None:
        try:
            self.step = on()
        except StopIteration as done:
            self.step, self._result = None, [done.value]


_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, *[5.0] * 23)
"""How long is waited before each next try: two minutes in all, so that a server can be restarted."""

_PASSING = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
"""What a server whose database is away answers, and a proxy whose server is."""

_BROKEN = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


def call(answer_type: type[T], method: str, path: str, **options: Any) -> Steps[T]:
    """One request and its parsed answer; a request whose connection breaks is sent once more.

    Raises:
        ProblemError: If the server refuses.
        UnexpectedAnswerError: If the answer is none of this API.
    """
    answer = yield from ask(method, path, **options)
    try:
        # Strict in, lenient out: a newer server's fields are ignored, in the echoed spec as well.
        return TypeAdapter(answer_type).validate_json(answer.content, extra="ignore")
    except ValidationError as error:
        raise UnexpectedAnswerError(str(answer.url), _kind_of(answer), status=answer.status_code) from error


def ask(method: str, path: str, *, kind: str | None = None, **options: Any) -> Steps[httpx.Response]:
    """As :func:`call`, with the answer as it came; its media type must be ``kind``, unless that is None."""
    try:
        answer: httpx.Response = yield Ask(method, path, options)
    except _BROKEN:
        answer = yield Ask(method, path, options)
    if not answer.is_success:
        raise _refusal(answer)
    if kind is not None:
        _check_kind(answer, kind)
    return answer


def open_stream(path: str, kind: str, **options: Any) -> Steps[httpx.Response]:
    """An open answer, whose pieces :class:`More` gives; the arguments are those of :class:`Open`.

    Raises:
        ProblemError: If the server refuses.
        UnexpectedAnswerError: If the answer is none of this API.
    """
    answer: httpx.Response = yield Open(path, kind, **options)
    if not answer.is_success:
        raise _refusal(answer)
    if answer.status_code != HTTPStatus.NO_CONTENT:
        _check_kind(answer, kind)
    return answer


class patiently:  # noqa: N801  (reads as the word that it is)
    """How often a server that was there is tried again when it is not: for two minutes.

    Held by a call over all its tries; :meth:`again` before each next one, :meth:`reached` after one that succeeded.
    """

    def __init__(self, *, reached: bool = False) -> None:
        """Starts; until the server is ``reached`` once, its absence is an error at once."""
        self._reached = reached
        self._tries = 0

    def reached(self) -> None:
        """The server answers: patience is whole again."""
        self._reached, self._tries = True, 0

    def again(
        self, error: httpx.TransportError | ServerUnreachableError | ProblemError | UnexpectedAnswerError
    ) -> Pause:
        """The pause before the next try.

        Raises:
            httpx.TransportError: The ``error``, if it is one that no patience helps, or patience is at its end.
            ServerUnreachableError: Likewise.
            ProblemError: Likewise.
            UnexpectedAnswerError: Likewise.
        """
        passing = not isinstance(error, ProblemError | UnexpectedAnswerError) or error.status in _PASSING
        if not passing or not self._reached or self._tries >= len(_PAUSES_SECONDS):
            raise error
        self._tries += 1
        return Pause(_PAUSES_SECONDS[self._tries - 1])


def _refusal(answer: httpx.Response) -> ProblemError | UnexpectedAnswerError:
    try:
        return ProblemError.of(Problem.model_validate_json(answer.content))
    except ValidationError:
        what = f"status {answer.status_code} and {_kind_of(answer)}"
        return UnexpectedAnswerError(str(answer.url), what, status=answer.status_code)


def _check_kind(answer: httpx.Response, kind: str) -> None:
    """A proxy's page, say, is no answer of this API, whatever its status."""
    if _kind_of(answer).partition(";")[0].strip().lower() != kind:
        raise UnexpectedAnswerError(str(answer.url), _kind_of(answer), status=answer.status_code)


def _kind_of(answer: httpx.Response) -> str:
    return str(answer.headers.get("content-type", "no content type"))
