"""How the two mechanisms of the method fared in the best run: numbers for a table, and charts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fixnorm_core.reports import EpochDiagnostics, EpochReport, TrialResult
from service.reporting.charts import count_axis, log_axis
from service.reporting.rows import percent

__all__ = ["DIAGNOSTICS_NOTE", "diagnostic_charts", "diagnostic_rows"]

DIAGNOSTICS_NOTE = (
    "Rotation: radians that a weight turns in a step, mean over the role's weights. Effective learning rate: "
    "lr / ‖W‖² (lr / ‖W‖ with AdamW), median over them. Gradient norm: what it would be at ‖W‖ = 1, told by the "
    "rotation. All over the same few steps of an epoch. Cross-boundary risk: share of training images nearer to a "
    "decision boundary than augmentation moves them, in feature space; this project's own definition."
)

_ROLES = (
    ("scale_invariant", "scale-invariant", "#2f7fd1"),
    ("head", "head", "#c2548f"),
    ("free", "free", "#98a2ad"),
)


def diagnostic_rows(history: Sequence[EpochReport], run: TrialResult) -> Iterable[tuple[str, str, str]]:
    """Triples (what, median over epochs, at the end); none without diagnostics."""
    epochs = [report.diagnostics for report in history if report.diagnostics is not None]
    if not epochs:
        return
    measures: dict[str, list[float | None]] = {}
    for role, title, _ in _ROLES:
        of_role = [getattr(epoch, role) for epoch in epochs]
        measures[f"rotation, {title}"] = [one.rotation for one in of_role]
        measures[f"effective learning rate, {title}"] = [one.effective_learning_rate for one in of_role]
    measures["gradient norm, scale-invariant"] = [epoch.scale_invariant.gradient_norm for epoch in epochs]
    measures["feature norm"] = [epoch.feature_norm for epoch in epochs]
    measures["gains of the last normalizations (rms)"] = [epoch.last_gain for epoch in epochs]
    measures["norm of the head"] = [report.head_norm for report in history]
    measures["bound on the norm of the head"] = [report.head_bound for report in history]
    for name, values in measures.items():
        if known := [value for value in values if value is not None]:
            yield name, f"{statistics.median(known):.3g}", f"{values[-1]:.3g}" if values[-1] is not None else ""
    if run.cross_boundary_risk is not None:
        yield "cross-boundary risk", "", percent(run.cross_boundary_risk)


def diagnostic_charts(history: Sequence[EpochReport]) -> Mapping[str, dict[str, Any]]:
    """One chart for each measure that was taken, by its title, epoch by epoch."""
    seen = [(report.epoch, report.diagnostics) for report in history if report.diagnostics is not None]
    if not seen:
        return {}
    epochs = [epoch for epoch, _ in seen]
    charts = {}
    for title, measure in (
        ("Rotation per step, rad", "rotation"),
        ("Effective learning rate", "effective_learning_rate"),
    ):
        charts[title] = _by_role(epochs, [one for _, one in seen], measure)
    every, norm, bound = zip(*((report.epoch, report.head_norm, report.head_bound) for report in history), strict=True)
    lines = [_line(every, norm, name="norm", color="#d98200")]
    if any(value is not None for value in bound):
        lines.append(_line(every, bound, name="its bound", color="#98a2ad", dash="dash"))
    charts["Norm of the head"] = _chart(lines, {"rangemode": "tozero"})
    for title, measure, color in (
        ("Feature norm", "feature_norm", "#2f9a5c"),
        ("Gains of the last normalizations (rms)", "last_gain", "#9a63ad"),
    ):
        values = [getattr(one, measure) for _, one in seen]
        if any(value is not None for value in values):
            charts[title] = _chart([_line(epochs, values, name=title, color=color)], {"rangemode": "tozero"})
    return charts


def _by_role(epochs: Sequence[int], seen: Sequence[EpochDiagnostics], measure: str) -> dict[str, Any]:
    lines, known = [], []
    for role, title, color in _ROLES:
        values = [getattr(getattr(one, role), measure) for one in seen]
        if any(value is not None for value in values):
            lines.append(_line(epochs, values, name=title, color=color))
            known += values
    return _chart(lines, log_axis(known))


def _line(
    across: Sequence[int], up: Sequence[float | None], *, name: str, color: str, dash: str = "solid"
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": list(across),
        "y": list(up),
        "name": name,
        "mode": "lines" if len(across) > 1 else "markers",
        "line": {"color": color, "width": 2, "dash": dash},
    }


def _chart(lines: Sequence[dict[str, Any]], up: dict[str, Any]) -> dict[str, Any]:
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    layout = {
        "xaxis": count_axis("epoch", most=max(max(line["x"], default=1) for line in lines) if lines else 1),
        "yaxis": up,
        "showlegend": len(lines) > 1,
        "legend": legend,
    }
    return {"data": list(lines), "layout": layout}
