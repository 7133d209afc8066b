"""``fixnorm-tune submit``."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.described import (
    BatchSizeOption,
    CodeOption,
    DataOption,
    DatasetOption,
    EpochsOption,
    FileArgument,
    GpusOption,
    LikeOption,
    ModelOption,
    NameOption,
    ParallelOption,
    RecipeOption,
    SeedOption,
    SetOption,
    TrialsOption,
    again,
    check_one_base,
    describe,
    told_of_folders_here,
)
from service.cli.options import DEFAULT_SERVER, Output, OutputOption, ServerOption, WatchOption, command_for

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune submit --recipe digits --set training.epochs=4 --watch")(submit)


def submit(
    file: FileArgument = None,
    recipe: RecipeOption = None,
    like: LikeOption = None,
    model: ModelOption = None,
    dataset: DatasetOption = None,
    data: DataOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    trials: TrialsOption = None,
    parallel: ParallelOption = None,
    gpus: GpusOption = None,
    seed: SeedOption = None,
    name: NameOption = None,
    code: CodeOption = None,
    changes: SetOption = None,
    watch: WatchOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the whole job, and what would become of it; start nothing.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="Names this submission: sending it again with the same key starts no second job."),
    ] = None,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Submit a job: a file, a recipe, the like of another job, or options alone; with one of those they change it."""
    from service.cli.connection import connect
    from service.cli.follow import follow
    from service.cli.plan import show_plan

    options = {
        "name": name,
        "model": model,
        "dataset": dataset,
        "data": data,
        "epochs": epochs,
        "batch_size": batch_size,
        "trials": trials,
        "parallel": parallel,
        "gpus": gpus,
        "seed": seed,
    }
    check_one_base(file, recipe, like)
    was_set = data is not None or any(change.partition("=")[0].strip() == "data.path" for change in changes or ())
    with connect(server) as client:
        base = again(client, like) if like is not None else None
        spec = describe(file, recipe=recipe, like=base, options=options, written=changes or (), code=code)
        with told_of_folders_here(spec.data.path, file=None if was_set else file):
            if dry_run:
                show_plan(client.plan(spec), output=output)
                return
            job = client.submit(spec, idempotency_key=idempotency_key).view
        if output is Output.TABLE:
            typer.echo("\n".join([f"job {job.id} ({job.name}) is submitted", *job.notes]))
        if watch:
            follow(client, job.id, output=output)
        elif output is Output.JSON:
            typer.echo(job.model_dump_json(indent=2))
        else:
            typer.echo(f"watch it: {command_for(f'watch {job.id}', server=server)}")
