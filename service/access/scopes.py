"""What each route asks of whoever calls it: the one list of them all.

A route that is missing here is refused to all but administrators, and a test that walks the application's routes fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from starlette.routing import compile_path

__all__ = ["NEEDS", "Need", "Scope", "need_of"]


class Scope(StrEnum):
    """What a token is good for; each includes the ones before it."""

    READ = "read"
    """See everything: jobs, logs, weights, the dashboard, metrics."""

    SUBMIT = "submit"
    """Submit jobs, and change one's own."""

    ADMIN = "admin"
    """Change everybody's jobs, and the cluster's nodes."""

    def covers(self, other: Scope) -> bool:
        """Whether this one is as good as another."""
        order = tuple(Scope)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Need:
    """What a route asks for.

    Attributes:
        scope: At least this; None lets everybody in.
        own_job: Whether the job that the path names must be the caller's own, unless they are an administrator.
    """

    scope: Scope | None
    own_job: bool = False


_OPEN = Need(None)
_READ = Need(Scope.READ)
_SUBMIT = Need(Scope.SUBMIT)
_OWN = Need(Scope.SUBMIT, own_job=True)
_ADMIN = Need(Scope.ADMIN)

_JOB = "/api/v1/jobs/{job_id}"

NEEDS: Mapping[tuple[str, str], Need] = {
    # Open: a probe has no token, a page without its style is no page, and one has to be able to come in and go out.
    ("GET", "/healthz"): _OPEN,
    ("GET", "/readyz"): _OPEN,
    ("GET", "/assets/{name}"): _OPEN,
    ("GET", "/login"): _OPEN,
    ("POST", "/login"): _OPEN,
    ("POST", "/logout"): _OPEN,
    ("GET", "/metrics"): _READ,
    ("GET", "/openapi.json"): _READ,
    ("GET", "/docs"): _READ,
    ("GET", "/"): _READ,
    ("GET", "/jobs"): _READ,
    ("GET", "/jobs/{job_id}"): _READ,
    ("GET", "/jobs/{job_id}/live"): _READ,
    ("GET", "/jobs/{job_id}/charts"): _READ,
    ("GET", "/jobs/{job_id}/report.html"): _READ,
    ("GET", "/jobs/{job_id}/trials/{number}/log"): _READ,
    ("GET", "/jobs/{job_id}/trials/{number}/log/live"): _READ,
    ("POST", "/jobs/{job_id}/{verb}"): _OWN,
    ("GET", "/api/v1/jobs"): _READ,
    ("POST", "/api/v1/jobs"): _SUBMIT,
    ("GET", _JOB): _READ,
    ("PATCH", _JOB): _OWN,
    ("GET", f"{_JOB}/trials"): _READ,
    ("GET", f"{_JOB}/trials/{{number}}/logs"): _READ,
    ("GET", f"{_JOB}/events"): _READ,
    ("GET", f"{_JOB}/best"): _READ,
    ("GET", f"{_JOB}/classes"): _READ,
    ("GET", f"{_JOB}/summary"): _READ,
    ("GET", f"{_JOB}/weights"): _READ,
    ("GET", f"{_JOB}/report"): _READ,
    ("GET", f"{_JOB}/code"): _READ,
    ("POST", f"{_JOB}/pause"): _OWN,
    ("POST", f"{_JOB}/resume"): _OWN,
    ("POST", f"{_JOB}/stop"): _OWN,
    ("POST", f"{_JOB}/cancel"): _OWN,
    ("POST", f"{_JOB}/extend"): _OWN,
    ("POST", f"{_JOB}/retry"): _OWN,
    ("POST", "/api/v1/plans"): _SUBMIT,
    ("GET", "/api/v1/queue"): _READ,
    ("GET", "/api/v1/nodes"): _READ,
    ("POST", "/api/v1/nodes/{name}/release"): _ADMIN,
    ("GET", "/api/v1/models"): _READ,
    ("GET", "/api/v1/datasets"): _READ,
    ("GET", "/api/v1/recipes"): _READ,
}

_PATTERNS = [(method, compile_path(path)[0], need) for (method, path), need in NEEDS.items()]


def need_of(method: str, path: str) -> tuple[Need, Mapping[str, Any]]:
    """What a request asks for, and the values in its path.

    What no route answers, the dashboard's pages among it, is for readers to look at and for administrators to change.
    """
    asked = "GET" if method in ("HEAD", "OPTIONS") else method
    for known, pattern, need in _PATTERNS:
        if known == asked and (match := pattern.match(path)) is not None:
            return need, match.groupdict()
    return (_READ if asked == "GET" else _ADMIN), {}
