"""How often an address may fail to say who it is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

__all__ = ["FAILURES", "WINDOW_SECONDS", "Failures"]

FAILURES = 10
"""How many failures an address has in a window before it is made to wait."""

WINDOW_SECONDS = 60.0

_ADDRESSES = 10_000
"""How many addresses are remembered; the one that failed longest ago is forgotten first."""


class Failures:
    """Counts failures by address; used by any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begins with none.

        Args:
            clock: Seconds that only grow.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._found: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_seconds(self, address: str) -> float:
        """How long an address has to wait before it may try again; 0 if it need not."""
        with self._lock:
            began, count = self._found.get(_network(address), (0.0, 0))
            left = began + WINDOW_SECONDS - self._clock()
            return left if count >= FAILURES and left > 0 else 0.0

    def add(self, address: str) -> None:
        """One more."""
        key, now = _network(address), self._clock()
        with self._lock:
            began, count = self._found.pop(key, (now, 0))
            if now - began >= WINDOW_SECONDS:
                began, count = now, 0
            self._found[key] = (began, count + 1)
            while len(self._found) > _ADDRESSES:
                self._found.popitem(last=False)


def _network(address: str) -> str:
    """An address of the old protocol, or the network that a user of the new one has all of."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return parsed.exploded[:19] if isinstance(parsed, IPv6Address) else address
