"""``fixnorm-tune serve``: one server process."""

from __future__ import annotations

import signal
import socket
import ssl
from ipaddress import ip_address
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

import structlog
import uvicorn

from fixnorm_core.errors import FixNormError
from service.access.settled import administrator_of
from service.administration import has_usable_token
from service.composition import build
from service.server_log import configure_log
from service.settings import Settings, hide_secrets

__all__ = ["AddressError", "CertificateError", "run_server"]


class AddressError(FixNormError):
    """An address that cannot be listened on."""

    code = "address_not_usable"


class CertificateError(FixNormError):
    """A certificate, or its key, that https cannot be served with."""

    code = "certificate_not_usable"


def run_server(settings: Settings, *, host: str, port: int, url_file: Path | None = None) -> None:
    """Serves until it is told to stop (SIGINT, SIGTERM).

    Args:
        settings: The server's settings.
        host: The address to listen on; one beyond loopback needs tokens.
        port: TCP port; 0 takes a free one.
        url_file: Gets the server's address once it answers, and is removed at the end.

    Must be called in the main thread, which gets the signals.

    Raises:
        AddressError: If the address is taken, or is beyond loopback and there are no tokens.
        CertificateError: If https cannot be served with the certificate and key of the settings.
        StateFolderInUse: If another server works on the state folder.
        CannotStart: If the folder, the database or Ray cannot be used.
    """
    configure_log(settings.log_format, settings.log_level)
    hide_secrets()  # Ray and whatever else is started below gets this process' environment
    if not _is_loopback(host):
        _check_tokens(settings, host)
    _check_certificate(settings)
    with _listen(host, port) as listener:  # before anything slow or lasting is done
        address = _address(listener, secure=settings.tls_cert is not None)

        def announce() -> None:
            structlog.get_logger(__name__).info(
                "server.ready", address=address, docs=f"{address}/docs", dashboard=f"{address}/dashboard"
            )
            if url_file is not None:
                half = url_file.with_name(f"{url_file.name}.part")
                half.write_text(f"{address}\n", encoding="utf-8")
                half.replace(url_file)  # whoever waits for the file finds it whole

        service = build(settings, on_ready=announce)
        # After the build, since Ray sets a handler too. Uvicorn shuts down on SIGTERM and then raises it once more.
        signal.signal(signal.SIGTERM, _exit)
        config = uvicorn.Config(
            service.app, log_config=None, access_log=False, timeout_graceful_shutdown=5, **_tls(settings)
        )
        try:
            service.start()  # in the app's lifespan an error would be a traceback in the log and no more
            _Server(config, service.runtime.stopping).run(sockets=[listener])
        finally:
            service.close()
            if url_file is not None:
                url_file.unlink(missing_ok=True)


def _tls(settings: Settings) -> dict[str, Any]:
    return {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key} if settings.tls_cert is not None else {}


def _check_certificate(settings: Settings) -> None:
    """As uvicorn will read them, but with a reason, and without a question for a password on the terminal."""
    if settings.tls_cert is None or settings.tls_key is None:
        return
    way_out = (
        "FIXNORM_TLS_CERT names a PEM file with the server's certificate and then those of its chain, FIXNORM_TLS_KEY "
        "one with its key, without a password; `openssl x509 -noout -pubkey -in CERT` and `openssl pkey -pubout -in "
        "KEY` print the same where they belong together"
    )
    for name, path in (("tls_cert", settings.tls_cert), ("tls_key", settings.tls_key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise CertificateError(f"{name} {path} cannot be read: {error.strerror or error}", way_out) from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, _no_password)
    except _PasswordWantedError as error:
        raise CertificateError(f"tls_key {settings.tls_key} has a password", way_out) from error
    except ssl.SSLError as error:
        what = f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key}"
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"{what} do not belong together", way_out) from error
        raise CertificateError(f"{what} cannot be used: {error.reason or error}", way_out) from error


class _PasswordWantedError(Exception):
    pass


def _no_password() -> str:
    raise _PasswordWantedError


class _Server(uvicorn.Server):
    """Tells of its stop at once: it waits for open answers, and a stream of events would stay open."""

    def __init__(self, config: uvicorn.Config, stopping: Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping.set()
        super().handle_exit(sig, frame)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AddressError(
            f"port {port} on {host} cannot be listened on: {error.strerror or error}",
            "Another program may hold it, perhaps another fixnorm-tune; choose one with --port, 0 for any free one",
        ) from error
    listener.listen(128)
    return listener


def _check_tokens(settings: Settings, host: str) -> None:
    """Beyond loopback nobody is let in without a token, so there has to be one that lets somebody in."""
    if administrator_of(settings) is not None or has_usable_token(settings):
        return
    raise AddressError(
        f"host {host!r} is beyond loopback, and this server has no token that would let anybody in",
        "Make one, with the same --state-dir or FIXNORM_DATABASE_URL: fixnorm-tune token create NAME --scope admin; "
        "or listen on 127.0.0.1 and reach it through an SSH tunnel",
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _address(listener: socket.socket, *, secure: bool) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
