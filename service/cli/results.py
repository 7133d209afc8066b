"""``fixnorm-tune watch``, ``report`` and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fixnorm_core.errors import SpecError
from service.cli.options import DEFAULT_SERVER, JobIdArgument, Output, OutputOption, ServerOption

if TYPE_CHECKING:
    from service.client import Client
    from service.schemas import BestView, JobView

__all__ = ["register"]

_MARKDOWN = (".md", ".markdown")


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.command(epilog="Example: fixnorm-tune watch job-25e1df92fd")(watch)
    app.command(epilog="Example: fixnorm-tune report job-25e1df92fd -o report.html")(report)
    app.command(epilog="Example: fixnorm-tune export job-25e1df92fd ./tuned")(export)


def watch(job_id: JobIdArgument, output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Follow a job until it ends; Ctrl-C leaves it running.

    One that is extended after its end was shown is watched again; one that was extended before is followed on.
    """
    from service.cli.connection import connect
    from service.cli.follow import follow

    with connect(server) as client:
        follow(client, job_id, output=output)


def report(
    job_id: JobIdArgument,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-o", metavar="FILE", help="Write HTML into this file; Markdown where it ends in .md."),
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="Print HTML: one file with all charts, no network.")] = False,
    output: Annotated[
        Output, typer.Option("--output", help="For people, or for programs. Without a short form: here -o is FILE.")
    ] = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Tell what a job tried, found and why it stopped: a finished one in Markdown, any one in HTML with charts.

    With --output json, says its format and the file that it was written to, or holds its text where no file is named.
    """
    from service.cli.connection import connect
    from service.cli.screen import write_json

    if file is not None and str(file) in list(Output):
        raise SpecError(
            f"here -o names the file that the report is written to, and {file} is no file's name",
            f"Name a file, such as report.html or report.md, or say --output {file}",
        )
    with connect(server) as client:
        is_html = html or (file is not None and file.suffix.lower() not in _MARKDOWN)
        text = client.report(job_id, html=is_html)
    if file is not None:
        _write(text, to=file)
    if output is Output.JSON:
        where = {"file": str(file), "text": None} if file is not None else {"file": None, "text": text}
        told = {"job": job_id, "format": "html" if is_html else "markdown", **where}
        write_json(told, dict[str, str | None])
    elif file is not None:
        typer.echo(file)
    else:
        typer.echo(text, nl=False)


def export(
    job_id: JobIdArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; made if it is not there.")],
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Write what a finished job leaves into a folder: weights, recipe, the lines that train, job file, report.

    Also the Python file that came with it: 'submit job.yaml --code code.py' runs the job again.

    Files of an earlier export are replaced.
    """
    from service.cli.connection import connect
    from service.cli.screen import write_json
    from service.cli.words import no_weights

    with connect(server) as client:
        job = client.job(job_id)
        best = job.former or client.best(job_id)  # of the round that has ended, while another runs
        texts = _texts(client, job, best)  # all is fetched before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / name for name in texts]
        for file, text in zip(written, texts.values(), strict=True):
            file.write_text(text, encoding="utf-8")
        if best.weights_url is not None:
            written.append(client.download_weights(job_id, to=folder / "weights.safetensors"))
        else:
            typer.echo(f"no weights: {no_weights(job)}", err=True)
    if output is Output.JSON:
        write_json({"job": job_id, "files": [str(file) for file in written]}, dict[str, str | list[str]])
    else:
        typer.echo("\n".join(map(str, written)))


def _write(text: str, *, to: Path) -> None:
    """Writes a file that is there whole or as it was."""
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f"{to.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)


def _texts(client: Client, job: JobView, best: BestView) -> dict[str, str]:
    from fixnorm_core.code import is_kept
    from service.client import NotFoundError
    from service.reporting.recipe import job_file, submitted_file, training_file

    texts = {
        "job.yaml": submitted_file(job.spec),
        "recipe.yaml": job_file(job.spec, best),
        "training.py": training_file(job.spec, best),
        "best.json": best.model_dump_json(indent=2) + "\n",
    }
    if is_kept(job.spec.model.name) or is_kept(job.spec.data.name):
        try:
            texts["code.py"] = client.code(job.id)
        except NotFoundError as error:
            typer.echo(f"no code.py: {error.detail}", err=True)
    if best.report is not None:
        texts["report.md"] = client.report(job.id)
    texts["report.html"] = client.report(job.id, html=True)
    return texts
