"""What ``fixnorm-tune submit --dry-run`` shows: a job file with every field, and what would become of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from service.cli.options import Output
from service.cli.words import counted, ending, knobs

if TYPE_CHECKING:
    from service.plans.schemas import PlanView

__all__ = ["plan_lines", "show_plan"]

_NAMED_CLASSES = 8


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
        *_images(plan),
        *(f"note: {note}" for note in plan.notes),
        f"{waits}{plan.reason}",
        f"{trials} at once, each of {counted(spec.training.epochs, 'epoch')}; first {points}",
        f"ends after {ending(spec)}",
        *_steps(plan),
        f"at most {counted(plan.epochs, 'epoch')} in all",
        "The whole job, as a file to submit:",
    ]


def _images(plan: PlanView) -> list[str]:
    if plan.images is None:
        return []
    splits = (f"{sum(counts.values())} {split} ({_by_class(counts)})" for split, counts in plan.images.items())
    return [f"images: {', '.join(splits)}"]


def _by_class(counts: Mapping[str, int]) -> str:
    fewest, most = min(counts.values()), max(counts.values())
    if fewest == most:
        return f"{most} a class"
    if len(counts) <= _NAMED_CLASSES:
        return ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{fewest} to {most} a class"


def _steps(plan: PlanView) -> list[str]:
    if plan.steps_per_epoch is None:
        return []
    steps = counted(plan.steps_per_epoch, "step")
    return [f"{steps} an epoch, {plan.steps_per_epoch * plan.spec.training.epochs} in a trial"]
