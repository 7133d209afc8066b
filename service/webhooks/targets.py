"""Where webhooks may go. A user who names an address must not reach, through the server, what only the server can."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpx

from fixnorm_core.errors import SpecError

__all__ = ["WebhookRefused", "check_address", "resolve"]

_NAT64 = IPv6Network("64:ff9b::/96")
_WAY_OUT = (
    "Name a public address; an operator allows this machine and private networks with FIXNORM_WEBHOOK_PRIVATE=true"
)


class WebhookRefused(SpecError):
    """An address that the server does not send to."""

    code = "webhook_refused"


def check_address(url: str, *, allow_private: bool) -> None:
    """Refuses at once what needs no name server to be refused.

    Raises:
        WebhookRefused: For an address that can be nobody's; or one of this machine or of a private network, where those
            are not allowed.
    """
    host = _parsed(url).host
    try:
        is_private = not _is_public(ip_address(host))
    except ValueError:
        is_private = host == "localhost" or host.endswith(".localhost")
    if is_private and not allow_private:
        raise WebhookRefused(f"webhook {url!r} leads into a private network", _WAY_OUT)


def resolve(url: str, *, allow_private: bool) -> str:
    """The IP address to connect to. Connecting to it, not to the name, is what makes the check hold.

    Raises:
        WebhookRefused: If one of the name's addresses is private, and that is not allowed; or if it can be no name.
        OSError: If the name has no address now.
    """
    parts = _parsed(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    private = [address for address in addresses if not _is_public(ip_address(address))]
    if private and not allow_private:
        raise WebhookRefused(f"webhook {url!r} leads to {private[0]}, which is not a public address", _WAY_OUT)
    return addresses[0]


def _parsed(url: str) -> httpx.URL:
    try:
        parts = httpx.URL(url)
        parts.host.encode("idna")  # as it is when a name server is asked
    except (httpx.InvalidURL, UnicodeError) as error:
        raise WebhookRefused(f"webhook {url!r} names a host that cannot be: {error}", "Correct its address") from None
    return parts


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast
