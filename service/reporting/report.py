"""The report of a finished job, as Markdown: what was found, what was tried, on which weights it acted."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from fixnorm_core.reports import EpochDiagnostics, EpochReport, RoleNames, TrialResult
from fixnorm_core.spec import JobSpec, warm_starts_of
from service.database.rows import JobRow
from service.reporting.rows import percent, result_rows
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
    charts: str,
) -> str:
    """The whole report.

    Args:
        job: The job.
        spec: As it was run.
        best: What it found.
        trials: All it tried.
        run: The training run whose weights are kept.
        history: Its epochs; without diagnostics in them, their section is left out.
        charts: Name of the file beside this one that shows the charts.
    """
    sections = [
        f"# {job.name} ({job.id})",
        f"{spec.model.name} on {spec.data.name}, {spec.training.epochs} epochs a trial, method {spec.search.method}, "
        f"sampler {spec.search.sampler}. Charts: [{charts}]({charts}).",
        *(f"Warm start: {one.note}." for one in warm_starts_of(spec.search, training=spec.training)),
        "## Result",
        _table(("what", "value"), result_rows(best)),
        "## Trials",
        _table(("trial", "kind", *best.params, "epochs", "validation accuracy", "state"), _trial_rows(trials, best)),
    ]
    measured = [report.diagnostics for report in history if report.diagnostics is not None]
    if run is not None and measured:
        sections += [f"## Diagnostics of trial {best.weights_trial}", _diagnostics(measured, run), _DIAGNOSTICS_NOTE]
    if run is not None:
        sections += ["## Roles of the weights", _roles(run.roles), "## Environment", _environment(run)]
    sections += ["## The job", f"```json\n{spec.model_dump_json(indent=2)}\n```"]
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


_DIAGNOSTICS_NOTE = (
    "Rotation: radians that a weight turns in a step, mean over the role's weights. Effective learning rate: "
    "lr / ‖W‖² (lr / ‖W‖ with AdamW), median over them. Gradient norm: what it would be at ‖W‖ = 1, told by the "
    "rotation. All over the same few steps of an epoch. Cross-boundary risk: share of training images nearer to a "
    "decision boundary than augmentation moves them, in feature space; this project's own definition."
)


def _diagnostics(epochs: Sequence[EpochDiagnostics], run: TrialResult) -> str:
    measures: dict[str, list[float | None]] = {}
    for title, role in (("scale-invariant", "scale_invariant"), ("head", "head"), ("free", "free")):
        of_role = [getattr(epoch, role) for epoch in epochs]
        measures[f"rotation, {title}"] = [one.rotation for one in of_role]
        measures[f"effective learning rate, {title}"] = [one.effective_learning_rate for one in of_role]
    measures["gradient norm, scale-invariant"] = [epoch.scale_invariant.gradient_norm for epoch in epochs]
    measures["feature norm"] = [epoch.feature_norm for epoch in epochs]
    measures["gains of the last normalizations (rms)"] = [epoch.last_gain for epoch in epochs]
    rows = [
        (name, f"{statistics.median(known):.3g}", f"{values[-1]:.3g}" if values[-1] is not None else "")
        for name, values in measures.items()
        if (known := [value for value in values if value is not None])
    ]
    if run.cross_boundary_risk is not None:
        rows.append(("cross-boundary risk", "", percent(run.cross_boundary_risk)))
    return _table(("what", "median over epochs", "at the end"), rows)


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
