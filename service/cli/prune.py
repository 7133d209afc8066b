"""``fixnorm-tune prune``: what is removed of ended jobs."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from service.cli.options import ExitCode, Output, OutputOption
from service.cli.serve import StateDirOption, server_settings

__all__ = ["register"]

_DAYS = "[default: FIXNORM_KEEP_{}_DAYS, else for ever]"


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune prune --logs-days 30 --jobs-days 365 --dry-run")(prune)


def prune(
    checkpoints_days: Annotated[
        float | None, typer.Option(min=0, help=f"Keep checkpoints so long {_DAYS.format('CHECKPOINTS')}")
    ] = None,
    logs_days: Annotated[
        float | None, typer.Option(min=0, help=f"Keep trials' logs so long {_DAYS.format('LOGS')}")
    ] = None,
    jobs_days: Annotated[float | None, typer.Option(min=0, help=f"Keep jobs so long {_DAYS.format('JOBS')}")] = None,
    keep_jobs: Annotated[
        int | None, typer.Option(min=0, help="Keep so many jobs, the last ones [default: FIXNORM_KEEP_JOBS, else all]")
    ] = None,
    best_too: Annotated[
        bool, typer.Option("--best-too", help="Remove the best weights and the report of a removed job too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go; remove nothing.")] = False,
    output: OutputOption = Output.TABLE,
    state_dir: StateDirOption = None,
) -> None:
    """Remove what ended jobs need no more: half-written files, and what is older than it is to be kept.

    Counts from a job's end. Never touches a job that has not ended. A server does the same every hour by its settings.
    Exit status 1 if something could not be removed.
    """
    settings = server_settings(state_dir=state_dir)
    from service.administration import policy_of
    from service.administration import prune as prune_state
    from service.cli.screen import make_console, write_json
    from service.cli.tables import pruned_table
    from service.retention.policy import Policy, Pruned

    by_settings = policy_of(settings)
    policy = Policy(
        _days(checkpoints_days, by_settings.checkpoints),
        _days(logs_days, by_settings.logs),
        _days(jobs_days, by_settings.jobs),
        by_settings.last_jobs if keep_jobs is None else keep_jobs,
        by_settings.keep_best and not best_too,
    )
    found = prune_state(settings, policy, dry_run=dry_run)
    if output is Output.JSON:
        write_json(found, list[Pruned])
    elif found:
        make_console().print(pruned_table(found))
    else:
        typer.echo("there is nothing to remove")
    if kept := [each for each in found if each.kept is not None]:
        for each in kept:
            typer.echo(f"kept {each.what} of job {each.job}: {each.kept}", err=True)
        raise typer.Exit(ExitCode.NOT_ALL_REMOVED)


def _days(given: float | None, otherwise: timedelta | None) -> timedelta | None:
    return timedelta(days=given) if given is not None else otherwise
