"""The Python client of the REST API: httpx and pydantic, nothing heavier."""

from service.client.client import Client
from service.client.errors import BadServerAddressError, ProblemError, ServerUnreachableError, UnexpectedAnswerError

__all__ = [
    "BadServerAddressError",
    "Client",
    "ProblemError",
    "ServerUnreachableError",
    "UnexpectedAnswerError",
]
