"""``fixnorm-tune list``, ``show``, ``trials``, ``best``, ``summary``, and what is asked of a job: to pause, to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import DEFAULT_SERVER, JobIdArgument, Output, OutputOption, ServerOption, WatchOption

if TYPE_CHECKING:
    from service.schemas import JobState, JobView

__all__ = ["register"]

_FAILED = "Says what is retried. Nothing else can be, so leaving it out does the same."


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.command("list", epilog="Example: fixnorm-tune list --state running --user ann")(list_jobs)
    app.command(epilog="Example: fixnorm-tune show job-25e1df92fd --watch")(show)
    app.command(epilog="Example: fixnorm-tune trials job-25e1df92fd -o json")(trials)
    app.command(epilog="Example: fixnorm-tune best job-25e1df92fd")(best)
    app.command(epilog="Example: fixnorm-tune summary job-25e1df92fd job-73a88dfd2a > learned.json")(summary)
    app.command(epilog="Example: fixnorm-tune pause job-25e1df92fd")(pause)
    app.command(epilog="Example: fixnorm-tune resume job-25e1df92fd")(resume)
    app.command(epilog="Example: fixnorm-tune stop job-25e1df92fd && fixnorm-tune watch job-25e1df92fd")(stop)
    app.command(epilog="Example: fixnorm-tune cancel job-25e1df92fd")(cancel)
    app.command(epilog="Example: fixnorm-tune extend job-25e1df92fd --trials 5")(extend)
    app.command(epilog="Example: fixnorm-tune retry job-25e1df92fd --failed")(retry)


def list_jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state, for example running.")] = None,
    search: Annotated[str | None, typer.Option(help="Only jobs with this in their name or id.")] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Only jobs of this user.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only jobs of the user whose token is sent.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many [default: all]")] = None,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """List jobs, newest first."""
    from service.cli.connection import connect
    from service.cli.screen import make_console, write_json
    from service.cli.tables import jobs_table
    from service.schemas import JobView

    wanted = None if state is None else _state(state)
    if mine and user is not None:
        raise typer.BadParameter(f"--mine and --user {user} are both given; give one of them")
    with connect(server) as client:
        found = client.jobs(state=wanted, limit=limit, search=search, user=user, mine=mine)
    if output is Output.JSON:
        write_json(found, list[JobView])
    elif found:
        console = make_console()
        console.print(jobs_table(found, width=console.width))
    else:
        is_narrowed = mine or any(one is not None for one in (state, search, user))
        typer.echo("no job matches; 'fixnorm-tune list' shows all" if is_narrowed else "there are no jobs yet")


def show(
    job_id: JobIdArgument,
    watch: WatchOption = False,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Show a job: its state and why, its progress, its best point."""
    from service.cli.connection import connect
    from service.cli.follow import follow
    from service.cli.screen import make_console
    from service.cli.tables import job_block

    with connect(server) as client:
        if watch:
            follow(client, job_id, output=output)
            return
        job = client.job(job_id)
        if output is Output.JSON:
            typer.echo(job.model_dump_json(indent=2))
        else:
            console = make_console()
            console.print(job_block(job, server=client.server, width=console.width), soft_wrap=True)


def trials(job_id: JobIdArgument, output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """List a job's trials with their curves, and why any failed."""
    from rich.text import Text

    from service.cli.connection import connect
    from service.cli.screen import make_console, write_json
    from service.cli.tables import failure_lines, trials_table
    from service.schemas import TrialView

    with connect(server) as client:
        found = client.trials(job_id)
    if output is Output.JSON:
        write_json(found, list[TrialView])
        return
    console = make_console()
    console.print(trials_table(found))
    for line in failure_lines(found):
        console.print(Text(line))


def best(job_id: JobIdArgument, output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Show a job's best point, its accuracy and its weights."""
    from service.cli.connection import connect
    from service.cli.screen import make_console
    from service.cli.tables import best_block

    with connect(server) as client:
        point = client.best(job_id)
        if output is Output.JSON:
            typer.echo(point.model_dump_json(indent=2))
            return
        console, job = make_console(), client.job(job_id)
        console.print(best_block(job, point, server=client.server, width=console.width), soft_wrap=True)


def summary(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of finished jobs.")],
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Print what finished jobs have learned, as a file that search.warm_start of a later job takes (JSON)."""
    from fixnorm_core.spec import Summary
    from service.cli.connection import connect
    from service.cli.screen import write_json

    with connect(server) as client:
        write_json([client.summary(job_id) for job_id in job_ids], list[Summary])


def pause(job_id: JobIdArgument, output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Let a job's running trials finish and start nothing more of it, until 'resume'."""
    _ask("pause", job_id, output=output, server=server)


def resume(job_id: JobIdArgument, output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Go on with a paused job."""
    _ask("resume", job_id, output=output, server=server)


def stop(job_id: JobIdArgument, output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Let a job's running trials finish, then end it with the best so far."""
    _ask("stop", job_id, output=output, server=server)


def cancel(job_id: JobIdArgument, output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """End a job now; what it has found stays."""
    _ask("cancel", job_id, output=output, server=server)


def extend(
    job_id: JobIdArgument,
    trials: Annotated[int, typer.Option(min=1, help="So many more than it has in its budget now.")],
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Give a job more trials; one that has ended goes on from those that it has."""
    from service.cli.connection import connect

    with connect(server) as client:
        _tell(client.extend(job_id, trials), output=output)


def retry(
    job_id: JobIdArgument,
    failed: Annotated[bool, typer.Option("--failed", help=_FAILED, show_default=False)] = True,  # noqa: ARG001
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Go on with a job that failed: failed trials are trained again as new ones, a failed evaluation is made again."""
    _ask("retry", job_id, output=output, server=server)


def _ask(verb: str, job_id: str, *, output: Output, server: str) -> None:
    from service.cli.connection import connect

    with connect(server) as client:
        asks = {
            "pause": client.pause,
            "resume": client.resume,
            "stop": client.stop,
            "cancel": client.cancel,
            "retry": client.retry,
        }
        job = asks[verb](job_id)
    _tell(job, output=output, had_ended=verb == "cancel" and job.state in ("SUCCEEDED", "FAILED"))


def _tell(job: JobView, *, output: Output, had_ended: bool = False) -> None:
    if output is Output.JSON:
        typer.echo(job.model_dump_json(indent=2))
    elif had_ended:
        typer.echo(f"job {job.id} had ended before and stays {job.state}: {job.reason}")
    else:
        typer.echo(f"job {job.id} is {job.state}: {job.reason}")


def _state(text: str) -> JobState:
    from service.schemas import JobState

    try:
        return JobState(text.upper())
    except ValueError:
        known = ", ".join(state.value.lower() for state in JobState)
        raise typer.BadParameter(f"{text!r} is no state of a job; the states are {known}") from None
