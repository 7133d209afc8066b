"""``fixnorm-tune logs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import DEFAULT_SERVER, ExitCode, JobIdArgument, ServerOption, command_for

if TYPE_CHECKING:
    from service.client import Client

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune logs job-25e1df92fd 4 --follow")(logs)


def logs(
    job_id: JobIdArgument,
    trial: Annotated[
        int | None, typer.Argument(min=0, help="Number of the trial [default: one that runs, else the last]")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Which attempt at it, counted from 1 [default: the last that trained it]")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the trial has ended, retried or not.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Print what a trial has logged, and why it failed."""
    from service.cli.connection import connect

    with connect(server) as client:
        number = _newest(client, job_id) if trial is None else trial
        try:
            for piece in client.logs(job_id, number, attempt=attempt, follow=follow):
                typer.echo(piece, nl=False)
        except KeyboardInterrupt:
            again = command_for(f"logs {job_id} {number} --follow", server=client.server)
            typer.echo(f"\njob {job_id} goes on; follow the log again: {again}", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def _newest(client: Client, job_id: str) -> int:
    from service.schemas import TrialState

    trials = client.trials(job_id)
    running = [trial.number for trial in trials if trial.state is TrialState.RUNNING]
    numbers = running or [trial.number for trial in trials]
    return numbers[-1] if numbers else 0  # the server says that there is none
