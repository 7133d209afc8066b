"""``fixnorm-tune submit``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import DEFAULT_SERVER, Output, OutputOption, ServerOption, WatchOption, command_for

if TYPE_CHECKING:
    from fixnorm_core.spec import JobSpec

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune submit --recipe digits --set training.epochs=4 --watch")(submit)


def submit(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A job file (YAML).")] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="A recipe in place of FILE; 'fixnorm-tune recipes' lists them.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A field to change, as in data.path=/data/imagenet; the value is YAML. Can be repeated.",
        ),
    ] = None,
    watch: WatchOption = False,
    name: Annotated[str | None, typer.Option(help="The job's name, in place of the file's.")] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="Names this submission: sending it again with the same key starts no second job."),
    ] = None,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Submit a job, and follow it if asked to."""
    from service.cli.follow import follow
    from service.client import Client

    spec = _spec(file, recipe=recipe, written=changes or ())
    if name is not None:
        spec = _renamed(spec, name)
    with Client(server) as client:
        job = client.submit(spec, idempotency_key=idempotency_key)
        if output is Output.TABLE:
            typer.echo("\n".join([f"job {job.id} ({job.name}) is submitted", *job.notes]))
        if watch:
            follow(client, job.id, output=output)
        elif output is Output.JSON:
            typer.echo(job.model_dump_json(indent=2))
        else:
            typer.echo(f"watch it: {command_for(f'show {job.id} --watch', server=server)}")


def _spec(file: Path | None, *, recipe: str | None, written: Sequence[str]) -> JobSpec:
    from fixnorm_core.changes import Change
    from fixnorm_core.errors import SpecError
    from fixnorm_core.jobfile import load_job_file
    from fixnorm_core.recipes import find_recipe

    changes = [Change.parse(text) for text in written]
    if file is not None and recipe is None:
        return load_job_file(file, changes=changes)
    if recipe is not None and file is None:
        return find_recipe(recipe).job(changes=changes)
    given = "neither a job file nor a recipe is" if file is None else f"both {file} and recipe {recipe} are"
    raise SpecError(f"{given} given, and one of them is submitted", "Give a FILE, or --recipe NAME")


def _renamed(spec: JobSpec, name: str) -> JobSpec:
    from pydantic import ValidationError

    from fixnorm_core.errors import SpecError
    from fixnorm_core.explain import explain

    try:
        return type(spec).model_validate({**spec.model_dump(), "name": name})
    except ValidationError as error:
        raise SpecError(f"--name: {explain(error)[0].rule}", "Choose another name") from error
