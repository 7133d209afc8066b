"""The Python client of the REST API: httpx and pydantic, nothing heavier."""

from service.client.async_client import AsyncClient
from service.client.client import Client
from service.client.errors import (
    BadCertificatesError,
    BadServerAddressError,
    BadTokenError,
    ConflictError,
    NoResultYetError,
    NotAllowedError,
    NotAuthenticatedError,
    NotFoundError,
    ProblemError,
    RefusedInputError,
    ServerTroubleError,
    ServerUnreachableError,
    TooManyRequestsError,
    UnexpectedAnswerError,
    WaitTimeoutError,
    WrongSchemeError,
)
from service.client.handles import AsyncJob, Job

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "BadCertificatesError",
    "BadServerAddressError",
    "BadTokenError",
    "Client",
    "ConflictError",
    "Job",
    "NoResultYetError",
    "NotAllowedError",
    "NotAuthenticatedError",
    "NotFoundError",
    "ProblemError",
    "RefusedInputError",
    "ServerTroubleError",
    "ServerUnreachableError",
    "TooManyRequestsError",
    "UnexpectedAnswerError",
    "WaitTimeoutError",
    "WrongSchemeError",
]
