"""``fixnorm-tune``: the console script."""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated

import typer

from service.cli import (
    catalog,
    classes,
    database,
    doctor,
    jobs,
    login,
    logs,
    prune,
    queue,
    results,
    serve,
    submit,
    token,
    update,
)
from service.cli.connection import given_token
from service.cli.failures import FailureReportingGroup
from service.cli.options import EXIT_CODES

__all__ = ["app", "main"]


def main() -> None:
    """Runs the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a sign shows a question mark; it is no reason to lose a result.
            stream.reconfigure(errors="replace")
    app()


app = typer.Typer(
    name="fixnorm-tune",
    help="Finds the learning rate and the final-layer norm of an image classifier in a handful of training runs.",
    epilog=EXIT_CODES,
    cls=FailureReportingGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fixnorm-tune {version('fixnorm-tune')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FIXNORM_TOKEN",
            help="The token to send to the server; others on this machine can see it here, and not in FIXNORM_TOKEN.",
        ),
    ] = None,
) -> None:
    del version  # its callback has dealt with it
    given_token.set(token)
    # Where nothing is set up, Optuna sets up its own as it makes its tables, and tells how that goes
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")


serve.register(app)
submit.register(app)
jobs.register(app)
results.register(app)
classes.register(app)
logs.register(app)
queue.register(app)
update.register(app)
catalog.register(app)
doctor.register(app)
token.register(app)
database.register(app)
prune.register(app)
login.register(app)


if __name__ == "__main__":
    main()
