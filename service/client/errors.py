"""What can go wrong between a client and a server, one class for each kind."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from fixnorm_core.errors import FixNormError
from service.schemas import FieldProblem, Problem

if TYPE_CHECKING:
    from datetime import timedelta

    import httpx

    from service.schemas import JobView

__all__ = [
    "BadCertificatesError",
    "BadServerAddressError",
    "BadTokenError",
    "ConflictError",
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
    "cause_of",
]


class BadServerAddressError(FixNormError):
    """A server address that is no http or https URL."""

    code = "bad_server_address"

    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address!r} is no server address; it begins with http:// or https:// and names a host",
            "Write it like http://127.0.0.1:8780",
        )


class BadTokenError(FixNormError):
    """What was given as a token cannot be one. It is not repeated: it may be a secret all the same."""

    code = "bad_token"

    def __init__(self) -> None:
        super().__init__(
            "the token is empty or has spaces, line ends or signs beyond ASCII, which no token has",
            "Give it as 'fixnorm-tune token create' printed it",
        )


class BadCertificatesError(FixNormError):
    """What ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` names holds no certificates."""

    code = "bad_certificates"

    def __init__(self, place: str, cause: str) -> None:
        super().__init__(
            f"the certificates of authorities to trust cannot be read from {place}: {cause}",
            "Set SSL_CERT_FILE to a PEM file of them, or unset it for the usual ones",
        )


class ServerUnreachableError(FixNormError):
    """No answer from the server: nothing listens there, or the connection broke.

    Attributes:
        url: The server's address.
    """

    code = "server_unreachable"

    def __init__(self, url: str, cause: str) -> None:
        way_out = "Start one with 'fixnorm-tune serve', or name another with --server URL or FIXNORM_SERVER"
        if "CERTIFICATE_VERIFY_FAILED" in cause:
            way_out = (
                "Set SSL_CERT_FILE to a PEM file with the certificate of the authority that has signed the server's, "
                "and name the server by a name in that"
            )
        super().__init__(f"no answer from the server at {url} ({cause})", way_out)
        self.url = url


class WrongSchemeError(ServerUnreachableError):
    """Something listens there, but speaks https where http was asked for, or the other way round."""

    code = "wrong_scheme"

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(url, cause)
        scheme, _, rest = url.partition("://")
        spoken = "http" if scheme == "https" else "https"
        self.rule = f"no answer by {scheme} from the server at {url}: its port speaks {spoken} ({cause})"
        self.way_out = f"Name it as {spoken}://{rest}, by --server or FIXNORM_SERVER"


class UnexpectedAnswerError(FixNormError):
    """Something answered, but not as this release of the API does.

    Attributes:
        url: What was asked.
        status: The answer's HTTP status.
    """

    code = "unexpected_answer"

    def __init__(self, url: str, what: str, *, status: int) -> None:
        super().__init__(
            f"{url} answered with {what}, which is not this API's answer",
            "Check that --server or FIXNORM_SERVER names a fixnorm-tune server of this release",
        )
        self.url = url
        self.status = status


class WaitTimeoutError(FixNormError, TimeoutError):
    """A job had not ended when the time to wait for it was over. It goes on.

    Attributes:
        job: It, as it was last seen.
    """

    code = "wait_timeout"

    def __init__(self, job: JobView, timeout: timedelta) -> None:
        super().__init__(
            f"job {job.id} is {job.state} after {timeout.total_seconds():g} s: {job.reason}",
            "It goes on: wait longer, or stop or cancel it",
        )
        self.job = job


class ProblemError(FixNormError):
    """The server's refusal, in its own words. What is refused for a known reason is of a class of its own.

    Attributes:
        problem: All that the server said.
        status: The answer's HTTP status.
        code: Stable and machine-readable, for example ``no_result_yet``.
        title: The kind of problem, for a person.
        detail: The value and the rule, for a person; ``rule`` is the same.
        errors: Every broken rule, when a document was refused.
    """

    code = "problem"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail, problem.way_out)
        self.problem = problem
        self.code = problem.code  # type: ignore[misc]  # the one class whose errors have codes of the server's

    @staticmethod
    def of(problem: Problem) -> ProblemError:
        """The error for a problem, of the class that its ``code`` and its status have."""
        if problem.code == "no_result_yet":
            return NoResultYetError(problem)
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return ServerTroubleError(problem)
        return _CLASSES.get(problem.status, ProblemError)(problem)

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def title(self) -> str:
        return self.problem.title

    @property
    def detail(self) -> str:
        return self.problem.detail

    @property
    def errors(self) -> tuple[FieldProblem, ...]:
        return self.problem.errors


class NotAuthenticatedError(ProblemError):
    """The server wants a token, or does not know the one that was sent (401)."""


class NotAllowedError(ProblemError):
    """The token's scope or name does not allow it (403)."""


class NotFoundError(ProblemError):
    """There is no such job, trial, model, ... (404), or what a job has left is there no more (410)."""


class ConflictError(ProblemError):
    """The job's state does not allow it (409)."""


class NoResultYetError(ConflictError):
    """There is nothing to fetch yet: no trial is complete, or the job has not ended (``no_result_yet``)."""


class RefusedInputError(ProblemError):
    """What was sent breaks a rule (422); ``errors`` names every field."""


class TooManyRequestsError(ProblemError):
    """The server asks to be left alone for a while (429)."""


class ServerTroubleError(ProblemError):
    """The server cannot do it, now or at all (5xx)."""


_CLASSES: dict[int, type[ProblemError]] = {
    HTTPStatus.UNAUTHORIZED: NotAuthenticatedError,
    HTTPStatus.FORBIDDEN: NotAllowedError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.GONE: NotFoundError,
    HTTPStatus.CONFLICT: ConflictError,
    HTTPStatus.UNPROCESSABLE_ENTITY: RefusedInputError,
    HTTPStatus.TOO_MANY_REQUESTS: TooManyRequestsError,
}


def cause_of(error: httpx.TransportError) -> str:
    """Why there was no answer, in httpx's words or by its class."""
    return str(error) or type(error).__name__
