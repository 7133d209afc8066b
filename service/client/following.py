"""Reading what still grows, a log or a stream of events, over connections that may break."""

from __future__ import annotations

import codecs
from http import HTTPStatus

import httpx
from httpx_sse import ServerSentEvent
from pydantic import ValidationError

from service.client.errors import ProblemError, UnexpectedAnswerError
from service.client.steps import EVENTS, Give, More, Pause, Steps, Stream, call, open_stream, patiently
from service.schemas import ATTEMPT_HEADER, EventView, TrialState, TrialView

__all__ = ["event_views", "log_pieces"]

_Decoder = codecs.getincrementaldecoder("utf-8")
_TRANSIENT = (httpx.TransportError, ProblemError, UnexpectedAnswerError)
_LONGEST_SILENCE_SECONDS = 90.0
"""Of a stream of events: the server says that it is alive every 15 seconds, unless it was told otherwise."""
_LONGEST_LOG_SILENCE_SECONDS = 60.0
"""Of a followed log: the server sends nothing while the trial logs nothing, so it is asked again from there, and a
machine that has vanished is noticed."""


def event_views(path: str, *, after: int) -> Stream[EventView]:
    """Events with numbers above ``after``, in order and each once, until the job has ended and all are read.

    Args:
        path: Of the job's events.
        after: The number of the last one that is known; 0 for none.

    Raises:
        httpx.TransportError: If the connection breaks and the server does not come back.
        ProblemError: If the server refuses.
        UnexpectedAnswerError: If the answer is none of this API.
    """
    patience = patiently()
    while True:
        before = after
        try:
            headers = {"Last-Event-ID": str(after)} if after else {}
            answer = yield from open_stream(
                path, EVENTS, options={"headers": headers}, silence=_LONGEST_SILENCE_SECONDS
            )
            patience.reached()
            if answer.status_code == HTTPStatus.NO_CONTENT:
                return
            piece: ServerSentEvent | None
            while (piece := (yield More())) is not None:
                event = _parsed(piece, answer)
                if event is not None and event.number > after:
                    after = event.number
                    yield Give(event)
            if after == before:
                yield Pause(0.5)  # a server that is just stopping ends a stream that has told nothing
        except _TRANSIENT as error:
            yield patience.again(error)


def log_pieces(path: str, *, trials: str, number: int, attempt: int | None, follow: bool) -> Stream[str]:
    """The text of a trial's log in pieces, as they come.

    Args:
        path: Of the log.
        trials: The path of the job's trials.
        number: The trial.
        attempt: Which attempt; None for the last one, which is then kept to after a broken connection, and with
            ``follow`` for all that come after it.
        follow: Whether the log is asked for again until the server says that its attempt has ended.

    Raises:
        httpx.TransportError: If the connection breaks and the server does not come back.
        ProblemError: If the server refuses.
        UnexpectedAnswerError: If the answer is none of this API.
    """
    decoder = _Decoder(errors="replace")
    silence = _LONGEST_LOG_SILENCE_SECONDS if follow else None
    patience = patiently(reached=attempt is not None)
    goes_on = attempt is None
    offset = 0
    while True:
        try:
            which = {"offset": offset, "follow": int(follow)} | ({"attempt": attempt} if attempt is not None else {})
            answer = yield from open_stream(path, "text/plain", options={"params": which}, silence=silence)
            patience.reached()
            attempt = _attempt_of(answer)
            if answer.status_code == HTTPStatus.NO_CONTENT:
                yield from _rest_of(decoder)
                if not goes_on or not (yield from _has_next(trials, number=number, attempt=attempt)):
                    return
                attempt, offset = attempt + 1, 0
                yield Give(f"\n--- attempt {attempt} ---\n")
                continue
            piece: bytes | None
            while (piece := (yield More())) is not None:
                offset += len(piece)
                yield Give(decoder.decode(piece))
            if not follow:
                yield from _rest_of(decoder)
                return
        except _TRANSIENT as error:
            if not follow:
                raise
            yield patience.again(error)


def _has_next(trials: str, *, number: int, attempt: int) -> Steps[bool]:
    """Waits until a trial has had another attempt, or has ended without."""
    while True:
        views = yield from call(list[TrialView], "GET", trials)
        now = next((one for one in views if one.number == number), None)
        if now is not None and now.attempts > attempt:
            return True
        if now is None or now.state is not TrialState.RUNNING:
            return False
        yield Pause(1.0)


def _attempt_of(answer: httpx.Response) -> int:
    said = answer.headers.get(ATTEMPT_HEADER, "")
    if not said.isdecimal():
        what = f"{ATTEMPT_HEADER}: {said}" if said else f"no {ATTEMPT_HEADER}"
        raise UnexpectedAnswerError(str(answer.url), what, status=answer.status_code)
    return int(said)


def _rest_of(decoder: codecs.IncrementalDecoder) -> Stream[str]:
    """What was left of a character that a killed process had begun; the next attempt's log begins anew."""
    if rest := decoder.decode(b"", final=True):
        yield Give(rest)
    decoder.reset()


def _parsed(piece: ServerSentEvent, answer: httpx.Response) -> EventView | None:
    if not piece.data:
        return None  # the first line of a stream says only when to come again
    try:
        return EventView.model_validate_json(piece.data)
    except ValidationError as error:
        raise UnexpectedAnswerError(str(answer.url), f"{piece.event!r}: {piece.data!r}", status=200) from error
