"""The options that commands share, and the exit codes."""

from __future__ import annotations

import os
from enum import IntEnum, StrEnum
from typing import Annotated

import typer

from service.cli.completion import complete_jobs
from service.default_address import DEFAULT_SERVER

__all__ = [
    "DEFAULT_SERVER",
    "EXIT_CODES",
    "ExitCode",
    "JobIdArgument",
    "Output",
    "OutputOption",
    "ServerOption",
    "WatchOption",
    "command_for",
]


class Output(StrEnum):
    """How a command writes what it read."""

    TABLE = "table"
    JSON = "json"


class ExitCode(IntEnum):
    """What a command's exit status says."""

    OK = 0
    JOB_FAILED = 1
    UNWELL = 1
    NOT_ALL_REMOVED = 1
    BAD_INPUT = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    SERVER_ERROR = 5
    NOT_ALLOWED = 6
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit status: 0 done, 1 the job failed or was cancelled ('doctor': something is a problem; 'prune': something "
    "could not be removed), 2 bad input, 3 no server answers, 4 not found, 5 the server failed, "
    "6 not allowed (no token, or not the right one), 130 interrupted."
)

JobIdArgument = Annotated[
    str,
    typer.Argument(metavar="ID", help="A job's id, as 'submit' and 'list' print it.", autocompletion=complete_jobs),
]
ServerOption = Annotated[str, typer.Option("--server", envvar="FIXNORM_SERVER", help="The server's address.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people, or for programs.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")]


def command_for(command: str, *, server: str) -> str:
    """A command line to type next, which reaches the same server as this one did."""
    usual = os.environ.get("FIXNORM_SERVER", DEFAULT_SERVER)
    return f"fixnorm-tune {command}" if server == usual else f"fixnorm-tune {command} --server {server}"
