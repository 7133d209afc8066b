"""``fixnorm-tune models``, ``fixnorm-tune datasets`` and ``fixnorm-tune recipes``."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.options import DEFAULT_SERVER, Output, OutputOption, ServerOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.command(epilog="Example: fixnorm-tune models")(models)
    app.command(epilog="Example: fixnorm-tune datasets -o json")(datasets)
    app.command(epilog="Example: fixnorm-tune recipes digits > my-job.yaml")(recipes)


def models(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """List the models that a job can name."""
    from service.cli.connection import connect
    from service.cli.screen import make_console, write_json
    from service.cli.tables import models_table
    from service.schemas import ModelView

    with connect(server) as client:
        found = client.models()
    if output is Output.JSON:
        write_json(found, list[ModelView])
    else:
        make_console().print(models_table(found))


def datasets(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """List the data sets that a job can name."""
    from service.cli.connection import connect
    from service.cli.screen import make_console, write_json
    from service.cli.tables import datasets_table
    from service.schemas import DatasetView

    with connect(server) as client:
        found = client.datasets()
    if output is Output.JSON:
        write_json(found, list[DatasetView])
    else:
        make_console().print(datasets_table(found))


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The recipe to print, as the job file that it is.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the jobs that are ready to run, or print one of them. Needs no server."""
    from fixnorm_core.recipes import find_recipe, list_recipes
    from service.cli.screen import make_console, write_json
    from service.cli.tables import recipes_table
    from service.schemas import RecipeView

    if name is None:
        views = [RecipeView.of(recipe) for recipe in list_recipes()]
        if output is Output.JSON:
            write_json(views, list[RecipeView])
        else:
            make_console().print(recipes_table(views))
            typer.echo("run one: fixnorm-tune submit --recipe NAME; print one: fixnorm-tune recipes NAME")
        return
    recipe = find_recipe(name)
    if output is Output.JSON:
        write_json(RecipeView.of(recipe), RecipeView)
    else:
        typer.echo(recipe.text, nl=False)
