"""Delivers what :mod:`service.webhooks.deliveries` holds, at least once, with growing pauses, in its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx
import structlog

from service.clock import wall_clock
from service.database.engine import Database
from service.database.rows import DeliveryRow
from service.metrics.meters import Meters
from service.webhooks import deliveries
from service.webhooks.signature import signed_headers
from service.webhooks.targets import WebhookRefused, resolve

__all__ = ["PAUSES", "Courier"]

PAUSES = tuple(timedelta(seconds=seconds) for seconds in (10, 60, 300, 1800, 7200, 21600))
"""After the first try, the second and so on; after the last one it is given up."""

_TIMEOUT_SECONDS = 10.0
_AT_ONCE = 8
"""So many receivers may be slow before others wait for them."""

_LOOK_EVERY_SECONDS = 1.0
_LEASE = timedelta(minutes=1)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Courier:
    """Sends webhooks.

    Attributes:
        database: Ours.
        secret: What they are signed with.
        allow_private: Whether they may go to this machine and to private networks.
        now: The time, in UTC.
        meters: What is counted.
    """

    database: Database
    secret: str
    allow_private: bool
    now: Callable[[], datetime]
    meters: Meters
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Looks for what is due, every second, until :meth:`close`."""
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops after the try that is under way. What is not delivered yet is, when a server starts again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_TIMEOUT_SECONDS)  # a name server may take longer than that to say nothing

    def deliver_due(self) -> int:
        """Tries whatever is due once; returns how many that was."""
        with self.database.read() as session:
            due = deliveries.due(session, now=self.now())
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="courier") as pool:
            return sum(pool.map(self._try_if_mine, due))

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_SECONDS):
            try:
                self.deliver_due()
            except Exception:  # the loop must outlive a lost database; what was due still is
                log.exception("webhook.failed")

    def _try_if_mine(self, delivery: DeliveryRow) -> bool:
        if self._stop.is_set():  # a claim counts as a try
            return False
        with self.database.write.begin() as session:
            mine = deliveries.claim(session, delivery, until=self.now() + _LEASE)
        if mine:
            self._try(delivery)
        return mine

    def _try(self, delivery: DeliveryRow) -> None:
        tries = delivery.tries + 1
        with self.database.read() as session:
            body = deliveries.message(session, delivery)
        error: str | None
        try:
            error, final = self._send(delivery, body), False
        except WebhookRefused as refused:
            error, final = refused.rule, True
        except _Gone as gone:
            error, final = str(gone), True
        except TimeoutError:
            error, final = f"the receiver did not answer within {_TIMEOUT_SECONDS:g} s", False
        except Exception as failed:  # whatever it is, it is this message's, which must not be tried for ever
            error, final = f"{type(failed).__name__}: {failed}", False
        ended = error is None or final or tries > len(PAUSES)
        due_at = None if ended else self.now() + PAUSES[tries - 1]
        with self.database.write.begin() as session:
            deliveries.note(session, delivery, error=error, due_at=due_at, now=self.now())
        outcome = "delivered" if error is None else "given_up" if ended else "not_delivered"
        self.meters.webhook_tried(outcome)
        log.info(
            f"webhook.{outcome}", job=delivery.job_id, host=urlsplit(delivery.url).hostname, tries=tries, error=error
        )

    def _send(self, delivery: DeliveryRow, body: bytes) -> str | None:
        """One try; what was wrong with the answer, or None when the message has arrived."""
        message_id = f"{delivery.job_id}.{delivery.number}"
        headers = signed_headers(self.secret, message_id=message_id, at=wall_clock(), body=body)
        url = httpx.URL(delivery.url)
        address = resolve(delivery.url, allow_private=self.allow_private)
        headers |= {"Content-Type": "application/json", "Host": url.netloc.decode(), "User-Agent": "fixnorm-tune"}
        status = asyncio.run(_status(url.copy_with(host=address), name=url.host, body=body, headers=headers))
        if status == HTTPStatus.GONE:
            raise _Gone("the receiver answered 410: it wants no more")
        return None if httpx.codes.is_success(status) else f"the receiver answered {status:d}"


async def _status(url: httpx.URL, *, name: str, body: bytes, headers: dict[str, str]) -> int:
    """Sends; reads no more of the answer than its status, and takes no longer than the timeout for it all.

    Redirects are not followed: they could lead anywhere. Nor is a proxy of the environment asked.
    """
    async with (
        asyncio.timeout(_TIMEOUT_SECONDS),
        httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, follow_redirects=False, trust_env=False) as http,
        http.stream("POST", url, content=body, headers=headers, extensions={"sni_hostname": name}) as answer,
    ):
        return answer.status_code


class _Gone(Exception):
    pass
