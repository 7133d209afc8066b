"""Errors at the end of the command line: what to print, and the exit status."""

from __future__ import annotations

from typing import Any

import typer

from fixnorm_core.errors import FixNormError
from service.cli.groups import QuickGroup
from service.cli.options import ExitCode

__all__ = ["FailureReportingGroup", "JobFailedError", "exit_code", "report"]


class JobFailedError(FixNormError):
    """A job that was followed to its end ended without success."""

    code = "job_failed"


class FailureReportingGroup(QuickGroup):
    """Ends a command that raised one of our errors with a message and a documented status, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command.

        Raises:
            typer.Exit: The command failed, and stderr says why.
        """
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.replace("Value error, ", "")  # pydantic's words, which Typer passes on
            raise
        except FixNormError as error:
            report(error)
            raise typer.Exit(exit_code(error)) from error


def report(error: FixNormError) -> None:
    """Writes the rule, every broken field and the way out to stderr."""
    from service.client import ProblemError

    rules = [error.rule]
    if isinstance(error, ProblemError) and error.problem.errors:
        rules = [f"{broken.field}: {broken.rule}" if broken.field else broken.rule for broken in error.problem.errors]
    for rule in rules:
        typer.echo(f"error: {rule}", err=True)
    if error.way_out:
        typer.echo(f"way out: {error.way_out}", err=True)


def exit_code(error: FixNormError) -> ExitCode:
    """The exit status of a command that ended with this error."""
    from service.client import ProblemError, ServerUnreachableError, UnexpectedAnswerError

    if isinstance(error, JobFailedError):
        return ExitCode.JOB_FAILED
    if error.code == "token_not_found":  # by its code: a laptop has no database, and nothing to import for one
        return ExitCode.NOT_FOUND
    if isinstance(error, ServerUnreachableError):
        return ExitCode.UNREACHABLE
    if isinstance(error, UnexpectedAnswerError):
        return ExitCode.SERVER_ERROR
    if isinstance(error, ProblemError):
        if error.problem.status in (401, 403, 429):
            return ExitCode.NOT_ALLOWED
        if error.problem.status >= 500:
            return ExitCode.SERVER_ERROR
        # A best point that does not exist yet is as absent as a job that does not exist.
        if error.problem.status in (404, 410) or error.problem.code == "no_result_yet":
            return ExitCode.NOT_FOUND
    return ExitCode.BAD_INPUT
