"""The report of a finished job, as Markdown: what was found, what was tried, on which weights it acted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fixnorm_core.reports import EpochReport, RoleNames, TrialResult
from fixnorm_core.spec import JobSpec, warm_starts_of
from service.database.rows import JobRow
from service.reporting.diagnostics import DIAGNOSTICS_NOTE, diagnostic_rows
from service.reporting.rows import counted, percent, result_rows
from service.schemas import BestView, TrialView

__all__ = ["render_report"]


def render_report(
    job: JobRow,
    spec: JobSpec,
    *,
    best: BestView,
    trials: Sequence[TrialView],
    run: TrialResult | None,
    history: Sequence[EpochReport] = (),
) -> str:
    """The whole report.

    Args:
        job: The job.
        spec: As it was run.
        best: What it found.
        trials: All it tried.
        run: The training run whose weights are kept.
        history: Its epochs; without diagnostics in them, their section is left out.
    """
    sections = [
        f"# {job.name} ({job.id})",
        f"{spec.model.name} on {spec.data.name}, {counted(spec.training.epochs, 'epoch')} a trial, "
        f"method {spec.search.method}, sampler {spec.search.sampler}. "
        f"With charts, as one HTML file: `fixnorm-tune report {job.id} -o report.html`.",
        *(f"Warm start: {one.note}." for one in warm_starts_of(spec.search, training=spec.training)),
        "## Result",
        _table(("what", "value"), result_rows(best)),
        "## Trials",
        _table(("trial", "kind", *best.params, "epochs", "validation accuracy", "state"), _trial_rows(trials, best)),
    ]
    if run is not None and (measured := list(diagnostic_rows(history, run))):
        table = _table(("what", "median over epochs", "at the end"), measured)
        sections += [f"## Diagnostics of trial {best.weights_trial}", table, DIAGNOSTICS_NOTE]
    if run is not None:
        sections += ["## Roles of the weights", _roles(run.roles), "## Environment", _environment(run)]
    sections += ["## The job", f"```json\n{spec.model_dump_json(indent=2, exclude={'webhook'})}\n```"]
    return "\n\n".join(sections) + "\n"


def _trial_rows(trials: Sequence[TrialView], best: BestView) -> Iterable[tuple[str, ...]]:
    for trial in trials:
        accuracy = percent(trial.validation_accuracy) if trial.validation_accuracy is not None else ""
        yield (
            str(trial.number),
            trial.kind,
            *(f"{trial.params[knob]:.4g}" if knob in trial.params else "" for knob in best.params),
            f"{len(trial.curve)}/{trial.epochs}",
            accuracy,
            f"{trial.state.lower()} {trial.reason}".strip(),
        )


def _roles(roles: RoleNames) -> str:
    lines = [
        f"- **{title}** ({len(names)}): {', '.join(f'`{name}`' for name in names) or 'none'}"
        for title, names in (
            ("scale-invariant", roles.scale_invariant),
            ("head", roles.head),
            ("free", roles.free),
        )
    ]
    return "\n".join(lines)


def _environment(run: TrialResult) -> str:
    table = _table(("what", "version"), [("device", run.device), *sorted(run.versions.items())])
    if not run.skipped_images:
        return table
    named = ", ".join(f"`{name}`" for name in run.skipped_examples)
    return f"{table}\n\nDamaged images left out of training and validation: {run.skipped_images}, the first {named}."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
