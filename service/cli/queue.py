"""``fixnorm-tune queue``."""

from __future__ import annotations

import typer

from service.cli.options import DEFAULT_SERVER, Output, OutputOption, ServerOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune queue")(queue)


def queue(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Show who holds what, and which jobs wait for room, in which order and why."""
    from service.cli.screen import make_console
    from service.cli.tables import queue_table, queue_title
    from service.client import Client

    with Client(server) as client:
        found = client.queue()
    if output is Output.JSON:
        typer.echo(found.model_dump_json(indent=2))
        return
    console = make_console()
    console.print(queue_title(found), soft_wrap=True)
    if found.jobs:
        console.print(queue_table(found))
