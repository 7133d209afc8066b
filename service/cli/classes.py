"""``fixnorm-tune classes``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from service.cli.options import DEFAULT_SERVER, JobIdArgument, Output, OutputOption, ServerOption

if TYPE_CHECKING:
    from rich.table import Table

    from fixnorm_core.reports import ClassEvaluation

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune classes job-25e1df92fd")(classes)


def classes(job_id: JobIdArgument, output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Show how each class fared on the test split, the weakest first, and what it was taken for."""
    from service.cli.connection import connect
    from service.cli.screen import make_console

    with connect(server) as client:
        found = client.classes(job_id)
    if output is Output.JSON:
        typer.echo(found.model_dump_json(indent=2))
    else:
        make_console().print(_table(found))


def _table(found: ClassEvaluation) -> Table:
    from service.cli.tables import plain_table
    from service.cli.words import percent
    from service.reporting.classes import class_rows

    table = plain_table("name", "images", "recall", "precision", "most often taken for")
    for row in class_rows(found):
        taken = "-" if row.taken_for is None else f"{row.taken_for[0]} ({row.taken_for[1]})"
        table.add_row(row.name, str(row.examples), percent(row.recall), percent(row.precision), taken)
    table.add_section()
    table.add_row("together", str(found.examples), percent(found.accuracy))
    for column in table.columns[1:4]:
        column.justify = "right"
    return table
