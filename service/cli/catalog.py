"""``fixnorm-tune models`` and ``fixnorm-tune datasets``."""

from __future__ import annotations

import typer

from service.cli.options import DEFAULT_SERVER, Output, OutputOption, ServerOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.command(epilog="Example: fixnorm-tune models")(models)
    app.command(epilog="Example: fixnorm-tune datasets -o json")(datasets)


def models(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """List the models that a job can name."""
    from service.cli.screen import make_console, write_json
    from service.cli.tables import models_table
    from service.client import Client
    from service.schemas import ModelView

    with Client(server) as client:
        found = client.models()
    if output is Output.JSON:
        write_json(found, list[ModelView])
    else:
        make_console().print(models_table(found))


def datasets(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """List the data sets that a job can name."""
    from service.cli.screen import make_console, write_json
    from service.cli.tables import datasets_table
    from service.client import Client
    from service.schemas import DatasetView

    with Client(server) as client:
        found = client.datasets()
    if output is Output.JSON:
        write_json(found, list[DatasetView])
    else:
        make_console().print(datasets_table(found))
