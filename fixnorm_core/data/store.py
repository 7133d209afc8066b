"""An object store as botocore and fsspec open it, and what its refusals mean, in words that repeat none of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import cache
from typing import Any

from fixnorm_core.disk import full_disk
from fixnorm_core.errors import DataError
from fixnorm_core.extras import install_command

__all__ = ["BucketDown", "NotEquipped", "Pace", "as_a_store", "explained", "open_store"]


_SLOWEST_BYTES = 2**16
"""A second, of a line that is waited for while something is sent."""


class Pace(Enum):
    """How long the answer to one request is waited for, beside the time that it takes to send it on a slow line."""

    USUAL = (5, 15, 3, 2)
    """A dead endpoint is an error within two minutes."""

    QUICK = (2, 8, 1, 1)
    """Where somebody waits."""

    TRANSFER = (5, 60, 2, 1)
    """Where files come and go, perhaps on a slow line: what is sent has to be there before the answer can be."""

    SLOW = (5, 300, 1, 1)
    """Where the store has much to do before it answers."""

    def __init__(self, connect_seconds: int, read_seconds: int, attempts: int, tries: int) -> None:
        """What botocore and s3fs, which makes so many tries of so many attempts, are told."""
        self.tries = tries
        self.config: dict[str, Any] = {
            "connect_timeout": connect_seconds,
            "read_timeout": read_seconds,
            "retries": {"total_max_attempts": attempts, "mode": "standard"},
        }


class BucketDown(DataError):
    """An object store that does not answer, answers that it cannot, or was changed: the same may go well later."""

    code = "bucket_down"


class NotEquipped(DataError):
    """This process lacks what it takes to ask an object store, keys or the extra ``s3``; another may have it."""


def open_store(url: str, *, pace: Pace = Pace.USUAL) -> Any:
    """The store of an address. Keys and endpoint are the environment's, as botocore and fsspec read them.

    Args:
        url: The address.
        pace: How long its answers are waited for.

    Raises:
        NotEquipped: If the extra ``s3`` is not installed.
    """
    try:
        import fsspec
        import s3fs  # noqa: F401 - fsspec's own message does not tell how to install it
    except ImportError as error:
        raise NotEquipped(
            f"{url} is in an object store, and {error.name} is not installed where trials run",
            f"Install the extra s3 there: {install_command('s3')}",
        ) from error
    config = pace.config | {"http_session_cls": _session_class()}
    store = fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=config)  # one of each pace in a process
    store.retries = pace.tries
    return store


class _RedirectedError(Exception):
    """An answer sends the request elsewhere; the status."""


@cache
def _session_class() -> type:
    """How requests are sent: as aiobotocore does, but to the endpoint alone, and not for ever.

    By itself it follows a redirection to whatever host an answer names, takes what that has for the data, and gives it
    the session's token and what is written. botocore follows none: it asks the same endpoint for another region.

    Its time for an answer begins when all is sent. A store that never says "100 Continue", or reads no further, is
    waited for without end, unless what is sent has a time of its own. What sends nothing has none: it may have to wait
    until others give one of the few connections back.
    """
    from aiobotocore.httpsession import AIOHTTPSession

    class Staying:
        def __init__(self, session: Any) -> None:
            self._session = session

        async def request(self, *args: Any, **options: Any) -> Any:
            asked = self._session.request(*args, **options, allow_redirects=False)
            size = int(options["headers"].get("Content-Length", 0))
            if not size and not options.get("data"):
                return await asked
            times = self._session.timeout
            return await asyncio.wait_for(asked, times.sock_connect + times.sock_read + size / _SLOWEST_BYTES)

    class StayingSession(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: str | None) -> Staying:
            return Staying(await super()._get_session(proxy_url))

        async def send(self, request: Any) -> Any:
            answer = await super().send(request)
            # Of one that names no region botocore asks for it, and is redirected again, until Python's stack is full
            if 300 <= answer.status_code < 400 and "x-amz-bucket-region" not in answer.headers:
                raise _RedirectedError(str(answer.status_code))
            return answer

    return StayingSession


@contextmanager
def explained(url: str, *, writes: bool = False) -> Iterator[None]:
    """Says what a store's refusal means, in words of ours: its own may hold an endpoint with a password in it.

    Args:
        url: The address that was asked.
        writes: Whether the account has to be able to write there too.

    Raises:
        BucketDown: For what may go well later.
        DataError: For what the job or the operator has to mend.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if full_disk(error) is not None or (isinstance(error, OSError) and error.filename is not None):
            raise  # of this machine's disk
        if (refusal := _refusal(url, error, writes=writes)) is None:
            raise
        raise refusal from None


def _unasked(url: str, error: Exception, *, writes: bool) -> DataError | None:
    """What is wrong where no request could even be made: credentials, or the address."""
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError

    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        who, where = (
            ("this process", "the server and workers") if writes else ("the process that runs trials", "workers")
        )
        return NotEquipped(
            f"{url} needs credentials, and there are none in the environment of {who}",
            f"Have the operator set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where {where} are started",
        )
    if isinstance(error, ValueError) and str(error).startswith("Invalid endpoint"):  # which it repeats
        return DataError(
            f"{url} cannot be asked for: AWS_ENDPOINT_URL or AWS_DEFAULT_REGION is not what it should be",
            "Have the operator set an address such as https://minio.example.org, and a region, where workers start",
        )
    return None


def _is_of_the_way(error: Exception) -> bool:
    """Whether no answer came, or not all of it, and one may come at another try."""
    from botocore.exceptions import (
        ConnectionError as BotoConnectionError,
    )
    from botocore.exceptions import (
        CredentialRetrievalError,
        HTTPClientError,
        IncompleteReadError,
        MetadataRetrievalError,
    )

    of_botocore = (
        BotoConnectionError | HTTPClientError | IncompleteReadError | CredentialRetrievalError | MetadataRetrievalError
    )
    is_one = isinstance(error, of_botocore | ConnectionError | TimeoutError | socket.gaierror)
    return is_one or type(error).__module__.startswith("aiohttp")


def _refusal(url: str, error: Exception, *, writes: bool) -> DataError | None:
    """What an error of the store means for whoever asked it; None where it is no error of the store."""
    from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError

    if isinstance(error, FlexibleChecksumError):
        return BucketDown(
            f"something below {url} is damaged, in the store or on the way: its checksum is another",
            "It is tried again by itself; if it happens often, have the operator look at the store and the network",
        )
    if (unasked := _unasked(url, error, writes=writes)) is not None:
        return unasked
    answer = error.__cause__ if isinstance(error.__cause__, ClientError) else None
    status = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if answer else 0
    code = str(answer.response.get("Error", {}).get("Code", ""))[:60] if answer else type(error).__name__
    if isinstance(error, _RedirectedError) or 300 <= status < 400:
        return DataError(
            f"the store of {url} answers {status or error}, which sends the request elsewhere; keys do not go there",
            "Have the operator set AWS_ENDPOINT_URL to where the store itself answers (https instead of http?), and "
            "AWS_DEFAULT_REGION to the bucket's region",
        )
    if isinstance(error, FileNotFoundError):
        return DataError(
            f"there is no {url}: the store answers {code}", "Correct the bucket's name, or AWS_ENDPOINT_URL"
        )
    rights = "s3:ListBucket and s3:GetObject"
    if writes:
        rights = "s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload"
    if isinstance(error, PermissionError) or (400 <= status < 500 and status not in (408, 429)):
        return DataError(
            f"{url} may not be {'written' if writes else 'read'}: the store answers {code}",
            f"Have the operator give the account of AWS_ACCESS_KEY_ID {rights} there, and check AWS_DEFAULT_REGION",
        )
    may_pass = _is_of_the_way(error) if answer is None else status in (408, 429) or (status >= 500 and status != 501)
    if not may_pass and (answer is not None or isinstance(error, BotoCoreError)):
        return DataError(
            f"{url} cannot be asked for as the environment of the process that runs trials says ({code})",
            "Have the operator correct AWS_PROFILE, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL and botocore's files there",
        )
    if may_pass:
        return BucketDown(
            f"the store of {url} does not answer as it should ({code})",
            "It is tried again by itself; have the operator look at the store, the network and AWS_ENDPOINT_URL",
        )
    return None


@contextmanager
def as_a_store(url: str) -> Iterator[None]:
    """Says of an answer that lacks what a store's has that it is none: a proxy's page has the status 200 too."""
    try:
        yield
    except KeyError as error:
        raise BucketDown(
            f"what answers for {url} is no object store: its answer has no {error.args[0]}",
            "It is tried again by itself; have the operator look at AWS_ENDPOINT_URL, and at proxies on the way",
        ) from None
