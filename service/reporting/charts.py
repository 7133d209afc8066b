"""The charts of a finished job, on one HTML page that needs no network: curves, the surface, the mechanisms."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fixnorm_core.reports import EpochReport
from service.schemas import BestView, TrialState, TrialView

__all__ = ["render_charts"]

_BEST, _OTHER, _DIVERGED = "#0b62a4", "#b5bac0", "#c23b22"
_ROLES = (
    ("scale_invariant", "scale-invariant", "#0b62a4"),
    ("head", "head", "#d98200"),
    ("free", "free", "#7a868f"),
)
_STYLE = (
    "body { font-family: system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 } "
    "p { color: #555 }"
)


def render_charts(
    title: str, *, best: BestView, trials: Sequence[TrialView], history: Sequence[EpochReport] = ()
) -> str:
    """One self-contained page; the same input gives the same page.

    Args:
        title: Of the page.
        best: What the job found.
        trials: All it tried.
        history: The epochs of the run whose weights are kept; without diagnostics in them, their chart is left out.
    """
    sections = [
        ("Learning curves", "Validation accuracy after each epoch; blue: the runs of the best point.", _curves),
        ("Where the trials were", "One mark a trial, both knobs on a log scale; the star is the best point.", _surface),
    ]
    parts = [(heading, words, draw(best, trials)) for heading, words, draw in sections]
    measured = [report for report in history if report.diagnostics is not None]
    if measured:
        words = f"Trial {best.weights_trial}, whose weights are kept. Rotation and rate are on a log scale."
        parts.append(("The best run, epoch by epoch", words, _mechanisms(measured)))
    body = "\n".join(
        f"<h2>{heading}</h2><p>{words}</p>"
        + figure.to_html(full_html=False, include_plotlyjs=number == 0, div_id=f"chart-{number}")
        for number, (heading, words, figure) in enumerate(parts)
    )
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
        f"</head><body><h1>{name}</h1>{body}</body></html>\n"
    )


def _curves(best: BestView, trials: Sequence[TrialView]) -> Any:
    figure = _figure(height=420)
    # The best point's runs last, so that they lie on top
    for trial in sorted(trials, key=lambda trial: trial.number in best.trials):
        chosen, diverged = trial.number in best.trials, trial.state is TrialState.DIVERGED
        figure.add_scatter(
            x=list(range(1, len(trial.curve) + 1)),
            y=[100 * accuracy for accuracy in trial.curve],
            mode="lines+markers" if len(trial.curve) == 1 else "lines",
            name=_label(trial),
            line={
                "color": _BEST if chosen else _DIVERGED if diverged else _OTHER,
                "width": 3 if chosen else 1.5,
                "dash": "dash" if diverged else "solid",
            },
        )
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="validation accuracy, %")
    return figure


def _surface(best: BestView, trials: Sequence[TrialView]) -> Any:
    across, up = best.params
    figure = _figure(height=480)
    finished = [
        trial for trial in trials if trial.state is TrialState.COMPLETE and trial.validation_accuracy is not None
    ]
    marker = {
        "color": [100 * (trial.validation_accuracy or 0.0) for trial in finished],
        "colorscale": "Viridis",
        "size": 13,
        "colorbar": {"title": "accuracy, %", "len": 0.8, "y": 0.4},
    }
    _add_points(figure, finished, across, up, name="complete", marker=marker)
    diverged = [trial for trial in trials if trial.state is TrialState.DIVERGED]
    _add_points(figure, diverged, across, up, name="diverged", marker={"color": _DIVERGED, "symbol": "x", "size": 11})
    figure.add_scatter(
        x=[best.params[across]],
        y=[best.params[up]],
        mode="markers",
        name="best point",
        hoverinfo="skip",
        marker={"symbol": "star-open", "size": 24, "color": "#111", "line": {"width": 2}},
    )
    figure.update_xaxes(title=across, type="log")
    figure.update_yaxes(title=up, type="log")
    return figure


def _add_points(
    figure: Any, trials: Sequence[TrialView], across: str, up: str, *, name: str, marker: dict[str, Any]
) -> None:
    if trials:
        figure.add_scatter(
            x=[trial.params[across] for trial in trials],
            y=[trial.params[up] for trial in trials],
            text=[_label(trial) for trial in trials],
            mode="markers",
            name=name,
            marker=marker,
        )


def _mechanisms(history: Sequence[EpochReport]) -> Any:
    titles = ("rotation per step, rad", "effective learning rate", "norm of the head", "features and last gains")
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, vertical_spacing=0.14)
    figure.update_layout(**_layout(height=640))
    seen = [(report, report.diagnostics) for report in history if report.diagnostics is not None]
    epochs = [report.epoch for report, _ in seen]

    def line(row: int, column: int, values: Sequence[float | None], **options: Any) -> None:
        if any(value is not None for value in values):
            mode = "lines" if len(values) > 1 else "markers"
            figure.add_scatter(x=epochs, y=values, mode=mode, row=row, col=column, **options)

    for role, name, color in _ROLES:
        moved = [getattr(one, role) for _, one in seen]
        shared = {"name": name, "legendgroup": role, "line": {"color": color}}
        line(1, 1, [one.rotation for one in moved], **shared)
        line(1, 2, [one.effective_learning_rate for one in moved], **shared, showlegend=False)
    line(2, 1, [report.head_norm for report, _ in seen], name="head norm", line={"color": "#d98200"})
    line(2, 1, [report.head_bound for report, _ in seen], name="its bound", line={"color": "#111", "dash": "dash"})
    line(2, 2, [one.feature_norm for _, one in seen], name="feature norm", line={"color": "#2a7f4f"})
    line(2, 2, [one.last_gain for _, one in seen], name="last gains (rms)", line={"color": "#8c4fa3"})
    figure.update_yaxes(type="log", exponentformat="power", row=1)
    figure.update_yaxes(rangemode="tozero", row=2)
    figure.update_xaxes(title="epoch", row=2)
    return figure


def _figure(*, height: int) -> Any:
    return go.Figure(layout=_layout(height=height))


def _layout(*, height: int) -> dict[str, Any]:
    return {"template": "plotly_white", "height": height, "margin": {"l": 60, "r": 20, "t": 40, "b": 50}}


def _label(trial: TrialView) -> str:
    accuracy = trial.validation_accuracy
    found = "" if accuracy is None else f", {100 * accuracy:.2f} %"
    return f"trial {trial.number} ({trial.kind}){found}"
