"""Addresses of data in object stores: ``s3://bucket/prefix``, of S3 and of whatever speaks its protocol. No network."""

from __future__ import annotations

import re

from fixnorm_core.errors import DataError

__all__ = ["canonical_url", "is_below_url", "is_url", "safe_parts"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_UNPRINTED = re.compile("[\\x00-\\x1f\\x7f\\ud800-\\udfff]")
_LONGEST_NAME = 255
"""Bytes of a file's name on Linux."""


def is_url(path: str) -> bool:
    """Whether a path is an address, of whatever kind, and not a folder's."""
    return _URL.match(path) is not None


def canonical_url(url: str) -> str:
    """The one way to write an address, so that addresses below it begin with it and a slash.

    Raises:
        DataError: If it is not ``s3://bucket`` or ``s3://bucket/prefix``, or a name in it is no file's.
    """
    scheme, _, rest = url.partition("://")
    bucket, *names = rest.rstrip("/").split("/")
    if scheme != "s3" or not _BUCKET.fullmatch(bucket) or (names and safe_parts("/".join(names)) is None):
        raise DataError(
            f"the address {_shown(url)} is not s3://BUCKET or s3://BUCKET/PREFIX",
            "Write the bucket's name in small letters, names with one slash between them and none that is '..', and "
            "neither keys nor a host: the operator sets AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL",
        )
    return "/".join((f"s3://{bucket}", *names))


def is_below_url(url: str, root: str) -> bool:
    """Whether an address is another or below it, both of them canonical."""
    return url == root or url.startswith(f"{root}/")


def safe_parts(key: str) -> tuple[str, ...] | None:
    """The names in an object's key, by which it can be a file below a folder; None if it cannot."""
    parts = tuple(key.split("/"))
    return parts if all(_is_name(part) for part in parts) else None


def _is_name(part: str) -> bool:
    if part in ("", ".", "..") or "?versionId=" in part:  # which s3fs takes for the end of a key
        return False
    return not _UNPRINTED.search(part) and len(part.encode()) <= _LONGEST_NAME


def _shown(url: str) -> str:
    """An address as a refusal tells it: what comes before an @ may be somebody's key."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    return repr(f"{scheme}{mark}{rest.rpartition('@')[2]}"[:200])
