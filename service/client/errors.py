"""What can go wrong between a client and a server, one class for each kind."""

from __future__ import annotations

from fixnorm_core.errors import FixNormError
from service.schemas import Problem

__all__ = ["BadServerAddressError", "ProblemError", "ServerUnreachableError", "UnexpectedAnswerError"]


class BadServerAddressError(FixNormError):
    """A server address that is no http or https URL."""

    code = "bad_server_address"

    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address!r} is no server address; it begins with http:// or https:// and names a host",
            "Write it like http://127.0.0.1:8780",
        )


class ServerUnreachableError(FixNormError):
    """No answer from the server: nothing listens there, or the connection broke.

    Attributes:
        url: The server's address.
    """

    code = "server_unreachable"

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"no answer from the server at {url} ({cause})",
            "Start one with 'fixnorm-tune serve', or name another with --server URL or FIXNORM_SERVER",
        )
        self.url = url


class UnexpectedAnswerError(FixNormError):
    """Something answered, but not as this release of the API does."""

    code = "unexpected_answer"

    def __init__(self, url: str, what: str) -> None:
        super().__init__(
            f"{url} answered with {what}, which is not this API's answer",
            "Check that --server or FIXNORM_SERVER names a fixnorm-tune server of this release",
        )


class ProblemError(FixNormError):
    """The server's refusal.

    Attributes:
        problem: The server's own words, with a stable ``code``.
    """

    code = "problem"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail, problem.way_out)
        self.problem = problem
