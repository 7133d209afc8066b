"""``fixnorm-tune models`` and ``fixnorm-tune datasets``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from service.cli.options import DEFAULT_SERVER, Output, OutputOption, ServerOption

if TYPE_CHECKING:
    from service.client import CatalogEntry

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.command(epilog="Example: fixnorm-tune models")(models)
    app.command(epilog="Example: fixnorm-tune datasets -o json")(datasets)


def models(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """List the models that a job can name."""
    from service.client import Client

    with Client(server) as client:
        _write(client.models(), output=output)


def datasets(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """List the data sets that a job can name."""
    from service.client import Client

    with Client(server) as client:
        _write(client.datasets(), output=output)


def _write(entries: list[CatalogEntry], *, output: Output) -> None:
    from service.cli.screen import make_console, write_json
    from service.cli.tables import catalog_table
    from service.client import CatalogEntry

    if output is Output.JSON:
        write_json(entries, list[CatalogEntry])
    else:
        make_console().print(catalog_table(entries))
