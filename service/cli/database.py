"""``fixnorm-tune database``: the tables that a server needs."""

from __future__ import annotations

import typer

from service.cli.groups import QuickGroup
from service.cli.options import Output, OutputOption
from service.cli.serve import StateDirOption, server_settings, tell_new

__all__ = ["register"]

_DATABASE = typer.Typer(cls=QuickGroup, no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.add_typer(_DATABASE, name="database", help="Look after a server's database.")


@_DATABASE.command(epilog="Example: FIXNORM_DATABASE_URL=postgresql://... fixnorm-tune database upgrade")
def upgrade(output: OutputOption = Output.TABLE, state_dir: StateDirOption = None) -> None:
    """Make a database's tables, or bring them up to date. Safe to run again, and from several machines at once.

    A server does the same when it starts.
    """
    settings = server_settings(state_dir=state_dir)
    from service.administration import missing_database, upgrade_database
    from service.cli.screen import write_json

    made = missing_database(settings)
    done = upgrade_database(settings)
    if made is not None:
        tell_new(made)
    if output is Output.JSON:
        write_json({"upgraded": done}, dict[str, bool])
        return
    typer.echo("the database is up to date now" if done else "the database was up to date")


@_DATABASE.callback()
def _group() -> None:
    """Keeps `database` a group of commands, though it has one so far."""
