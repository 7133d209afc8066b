"""``fixnorm-tune queue``."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.options import DEFAULT_SERVER, Output, OutputOption, ServerOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune queue")(queue)
    app.command(epilog="Example: fixnorm-tune release 10.0.0.7")(release)


def queue(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Show who holds what, and which jobs wait for room, in which order and why."""
    from service.cli.connection import connect
    from service.cli.screen import make_console
    from service.cli.tables import node_lines, queue_reasons, queue_table, queue_title

    with connect(server) as client:
        found = client.queue()
    if output is Output.JSON:
        typer.echo(found.model_dump_json(indent=2))
        return
    console = make_console()
    console.print(queue_title(found), soft_wrap=True)
    for line in node_lines(found.nodes):
        console.print(line, soft_wrap=True)
    if found.jobs:
        console.print(queue_table(found, width=console.width))
        for line in queue_reasons(found, width=console.width):
            console.print(line)


def release(
    node: Annotated[str, typer.Argument(help="Its name, as queue tells it.")],
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Take a node into use again that is out of use because trials were lost there."""
    from service.cli.connection import connect
    from service.cli.screen import write_json
    from service.nodes.schemas import NodeView

    with connect(server) as client:
        nodes = client.release(node)
    if output is Output.JSON:
        write_json(nodes, list[NodeView])
        return
    state = next((each.state for each in nodes if each.name == node), "away")
    typer.echo(f"node {node} is {state}")
