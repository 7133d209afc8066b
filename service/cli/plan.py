"""What ``fixnorm-tune submit --dry-run`` shows: a job file with every field, and what would become of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from service.cli.options import Output
from service.cli.words import counted, ending, knobs

if TYPE_CHECKING:
    from service.plans.schemas import PlanView

__all__ = ["plan_lines", "show_plan"]


def show_plan(plan: PlanView, *, output: Output) -> None:
    """Writes it: as a job file whose comments tell the plan, so that it can be kept and submitted; or as JSON."""
    import yaml

    if output is Output.JSON:
        typer.echo(plan.model_dump_json(indent=2))
        return
    typer.echo("\n".join(f"# {line}" for line in plan_lines(plan)))
    document = plan.spec.model_dump(mode="json")
    typer.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120), nl=False)


def plan_lines(plan: PlanView) -> list[str]:
    """The plan in sentences."""
    spec = plan.spec
    trials = counted(plan.trials_at_once, "trial")
    waits = "" if plan.place is None else f"place {plan.place} in the queue: "
    points = "; then ".join(knobs(point) for point in plan.first_points)
    return [
        "Nothing was submitted. If it were now:",
        f"{spec.model.name} on {spec.data.name}, {spec.search.method} by {spec.search.sampler}",
        *plan.notes,
        f"{waits}{plan.reason}",
        f"{trials} at once, each of {counted(spec.training.epochs, 'epoch')}; first {points}",
        f"ends after {ending(spec)}",
        f"at most {counted(plan.epochs, 'epoch')} in all",
        "The whole job, as a file to submit:",
    ]
