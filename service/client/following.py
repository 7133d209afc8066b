"""Reading a log that still grows, over connections that may break."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from http import HTTPStatus

import httpx

from service.schemas import ATTEMPT_HEADER

__all__ = ["log_pieces"]

_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, *[5.0] * 23)
"""How long is waited before each next try: two minutes in all, so that a server can be restarted."""


def log_pieces(
    open_stream: Callable[[dict[str, int]], httpx.Response],
    *,
    attempt: int | None,
    follow: bool,
    next_attempt: Callable[[int], int | None],
    sleep: Callable[[float], None],
) -> Iterator[str]:
    """The text of a log in pieces, as they come.

    Args:
        open_stream: Asks for the log with these parameters; raises if it is refused.
        attempt: Of which attempt; None for the last one, which is then kept to after a broken connection.
        follow: Whether the log is asked for again until the server says that its attempt has ended.
        next_attempt: Waits for the attempt that follows one that has ended, and returns its number; None if none will.
        sleep: Waits for so many seconds.

    Raises:
        httpx.TransportError: If the connection breaks and the server does not come back.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offset, tries = 0, 0
    while True:
        try:
            answer = open_stream({"offset": offset} | ({"attempt": attempt} if attempt is not None else {}))
            try:
                attempt = int(answer.headers[ATTEMPT_HEADER])
                if answer.status_code == HTTPStatus.NO_CONTENT:
                    if (attempt := next_attempt(attempt)) is None:
                        return
                    offset = 0
                    yield f"\n--- attempt {attempt} ---\n"
                    continue
                for piece in answer.iter_bytes():
                    offset, tries = offset + len(piece), 0
                    yield decoder.decode(piece)
            finally:
                answer.close()
            if not follow:
                return
        except httpx.TransportError:
            if not follow or (offset == 0 and attempt is None) or tries >= len(_PAUSES_SECONDS):
                raise
            sleep(_PAUSES_SECONDS[tries])
            tries += 1
