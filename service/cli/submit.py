"""``fixnorm-tune submit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import DEFAULT_SERVER, Output, OutputOption, ServerOption, WatchOption, command_for

if TYPE_CHECKING:
    from fixnorm_core.spec import JobSpec

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune submit examples/digits.yaml --watch")(submit)


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A job file (YAML).")],
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
    from fixnorm_core.jobfile import load_job_file
    from service.cli.follow import follow
    from service.client import Client

    spec = load_job_file(file)
    if name is not None:
        spec = _renamed(spec, name)
    with Client(server) as client:
        job = client.submit(spec, idempotency_key=idempotency_key)
        if output is Output.TABLE:
            typer.echo(f"job {job.id} ({job.name}) is submitted")
        if watch:
            follow(client, job.id, output=output)
        elif output is Output.JSON:
            typer.echo(job.model_dump_json(indent=2))
        else:
            typer.echo(f"watch it: {command_for(f'show {job.id} --watch', server=server)}")


def _renamed(spec: JobSpec, name: str) -> JobSpec:
    from pydantic import ValidationError

    from fixnorm_core.errors import SpecError
    from fixnorm_core.explain import explain

    try:
        return type(spec).model_validate({**spec.model_dump(), "name": name})
    except ValidationError as error:
        raise SpecError(f"--name: {explain(error)[0].rule}", "Choose another name") from error
