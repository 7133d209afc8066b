"""``fixnorm-tune update``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.options import DEFAULT_SERVER, JobIdArgument, Output, OutputOption, ServerOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune update job-25e1df92fd --weight 2 --max-gpus none")(update)


def update(
    job_id: JobIdArgument,
    weight: Annotated[float | None, typer.Option(help="Its weight among its user's jobs.")] = None,
    priority: Annotated[int | None, typer.Option(help="A higher one goes first.")] = None,
    max_gpus: Annotated[str | None, typer.Option(help="What its trials hold together at most; none lifts it.")] = None,
    max_cpus: Annotated[str | None, typer.Option(help="Likewise CPU cores.")] = None,
    parallel_trials: Annotated[int | None, typer.Option(help="How many trials run at once at most.")] = None,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Change what a job that waits or runs gets, from its next trial on; nothing that runs is ended."""
    from pydantic import ValidationError

    from service.cli.connection import connect
    from service.schemas import JobChange

    numbers = {"weight": weight, "priority": priority}
    share: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    caps = {"max_gpus": max_gpus, "max_cpus": max_cpus}
    share |= {name: None if value == "none" else value for name, value in caps.items() if value is not None}
    budget = {} if parallel_trials is None else {"parallel_trials": parallel_trials}
    if not share and not budget:
        raise typer.BadParameter("nothing is to change: give --weight, --priority, --max-gpus or another option")
    try:
        wanted = JobChange.model_validate({"share": share, "budget": budget})
    except ValidationError as error:
        broken = error.errors()[0]
        field = ".".join(str(step) for step in broken["loc"])
        raise typer.BadParameter(f"{field} is {broken['input']!r}: {broken['msg'].lower()}") from None
    with connect(server) as client:
        job = client.update(job_id, wanted)
    if output is Output.JSON:
        typer.echo(job.model_dump_json(indent=2))
        return
    now = job.spec.share
    parts = [f"weight {now.weight:g}", f"priority {now.priority}"]
    parts += [
        f"max_{what} {cap:g}" for what, cap in (("gpus", now.max_gpus), ("cpus", now.max_cpus)) if cap is not None
    ]
    typer.echo(f"job {job.id}: {', '.join(parts)}, parallel_trials {job.spec.budget.parallel_trials}")
