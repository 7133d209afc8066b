"""``fixnorm-tune watch``, ``report`` and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import DEFAULT_SERVER, JobIdArgument, Output, OutputOption, ServerOption

if TYPE_CHECKING:
    from service.client import Client
    from service.schemas import BestView, JobView

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.command(epilog="Example: fixnorm-tune watch 3f2a")(watch)
    app.command(epilog="Example: fixnorm-tune report 3f2a --html > report.html")(report)
    app.command(epilog="Example: fixnorm-tune export 3f2a ./tuned")(export)


def watch(job_id: JobIdArgument, output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Follow a job until it ends; Ctrl-C leaves it running."""
    from service.cli.follow import follow
    from service.client import Client

    with Client(server) as client:
        follow(client, job_id, output=output)


def report(
    job_id: JobIdArgument,
    html: Annotated[bool, typer.Option("--html", help="The charts, as one HTML file that needs no network.")] = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Print a finished job's report: Markdown, or its charts."""
    from service.client import Client

    with Client(server) as client:
        typer.echo(client.report(job_id, html=html), nl=False)


def export(
    job_id: JobIdArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; made if it is not there.")],
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Write what a finished job leaves into a folder: weights, recipe, the lines that train, job file, report.

    Files of an earlier export are replaced.
    """
    from service.client import Client

    with Client(server) as client:
        best, job = client.best(job_id), client.job(job_id)
        texts = _texts(client, job, best)  # all is fetched before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
            typer.echo(folder / name)
        if best.weights_url is not None:
            typer.echo(client.download_weights(job_id, to=folder / "weights.safetensors"))
        else:
            typer.echo("no weights: the job has not ended well, or its trials were simulated", err=True)


def _texts(client: Client, job: JobView, best: BestView) -> dict[str, str]:
    import yaml

    from service.reporting.recipe import job_file, training_code

    written = job.spec.model_dump(mode="json", exclude_defaults=True)
    texts = {
        "job.yaml": str(yaml.safe_dump(written, sort_keys=False, default_flow_style=None, width=100)),
        "recipe.yaml": job_file(job.spec, best),
        "training.py": training_code(job.spec, best),
        "best.json": best.model_dump_json(indent=2) + "\n",
    }
    if best.report is not None:
        texts |= {"report.md": client.report(job.id), "report.html": client.report(job.id, html=True)}
    return texts
