"""The charts of a finished job, on one HTML page that needs no network: curves, the surface, the mechanisms."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fixnorm_core.reports import EpochReport, TrialResult
from service.reporting.rows import result_rows
from service.schemas import BestView, TrialState, TrialView

__all__ = ["log_axis", "render_charts", "trial_label"]

_FINISHED = frozenset({TrialState.COMPLETE, TrialState.DIVERGED, TrialState.PRUNED})
_BEST, _OTHER, _DIVERGED = "#0b62a4", "#b5bac0", "#c23b22"
_ROLES = (
    ("scale_invariant", "scale-invariant", "#0b62a4"),
    ("head", "head", "#b5367a"),
    ("free", "free", "#7a868f"),
)
_STYLE = (
    "body { font-family: system-ui, sans-serif; margin: 2rem; color: #222 } "
    "p { color: #555 } th { text-align: left; white-space: nowrap; font-weight: normal } "
    "th { color: #555; padding: .15rem 1.5rem .15rem 0 }"
)


def render_charts(
    title: str,
    *,
    best: BestView,
    trials: Sequence[TrialView],
    run: TrialResult | None = None,
    history: Sequence[EpochReport] = (),
) -> str:
    """One self-contained page; the same input gives the same page.

    Args:
        title: Of the page.
        best: What the job found.
        trials: All it tried.
        run: The training run whose weights are kept.
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
        + figure.to_html(
            full_html=False, config={"responsive": True}, include_plotlyjs=number == 0, div_id=f"chart-{number}"
        )
        for number, (heading, words, figure) in enumerate(parts)
    )
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
        f"</head><body><h1>{name}</h1>{_result(best, trials, run)}{body}</body></html>\n"
    )


def _result(best: BestView, trials: Sequence[TrialView], run: TrialResult | None) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(what)}</th><td>{value if what == 'report' else html.escape(value)}</td></tr>"
        for what, value in _rows(best, trials, run)
    )
    return f"<table>{rows}</table>"


def _rows(best: BestView, trials: Sequence[TrialView], run: TrialResult | None) -> Iterable[tuple[str, str]]:
    yield from result_rows(best)
    used = sum(trial.state in _FINISHED for trial in trials)
    yield "trials used", str(used)
    sizes = [f"{run.validation_examples} validation"] if run is not None else []
    sizes += [f"{best.test.examples} test"] if best.test is not None else []
    if sizes:
        yield "images", " and ".join(sizes) + (f", {run.classes} classes" if run is not None else "")
    if best.report:
        name = html.escape(PurePath(best.report).name)
        yield "report", f'<a href="{name}">{name}</a>'


def _is_best(trial: TrialView, best: BestView) -> bool:
    return trial.number in {*best.trials, best.weights_trial} or trial.params == best.params


def _curves(best: BestView, trials: Sequence[TrialView]) -> Any:
    figure = _figure(height=420)
    # The best point's runs last, so that they lie on top
    for trial in sorted(trials, key=lambda trial: _is_best(trial, best)):
        chosen, diverged = _is_best(trial, best), trial.state is TrialState.DIVERGED
        figure.add_scatter(
            x=list(range(1, len(trial.curve) + 1)),
            y=[100 * accuracy for accuracy in trial.curve],
            mode="lines+markers" if len(trial.curve) == 1 else "lines",
            name=trial_label(trial),
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
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    _add_points(figure, pruned, across, up, name="stopped early", marker={"color": _OTHER, "size": 9})
    figure.add_scatter(
        x=[best.params[across]],
        y=[best.params[up]],
        mode="markers",
        name="best point",
        hoverinfo="skip",
        marker={"symbol": "star-open", "size": 24, "color": "#111", "line": {"width": 2}},
    )
    shown = [*finished, *diverged, *pruned]
    figure.update_xaxes(title=across, **log_axis([trial.params[across] for trial in shown]))
    figure.update_yaxes(title=up, **log_axis([trial.params[up] for trial in shown]))
    return figure


def _add_points(
    figure: Any, trials: Sequence[TrialView], across: str, up: str, *, name: str, marker: dict[str, Any]
) -> None:
    if trials:
        figure.add_scatter(
            x=[trial.params[across] for trial in trials],
            y=[trial.params[up] for trial in trials],
            text=[trial_label(trial) for trial in trials],
            mode="markers",
            name=name,
            marker=marker,
        )


def log_axis(values: Iterable[float | None]) -> dict[str, Any]:
    """A log axis whose ticks are 1, 2 and 5 in each decade, or powers of ten where those would be too many."""
    known = [value for value in values if value is not None and 0 < value < math.inf]
    if not known:
        return {"type": "log"}
    low, high = math.floor(math.log10(min(known))) - 1, math.ceil(math.log10(max(known))) + 1
    digits = (1, 2, 5) if high - low <= 5 else (1,)
    ticks = [float(f"{digit}e{power}") for power in range(low, high + 1) for digit in digits]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _mechanisms(history: Sequence[EpochReport]) -> Any:
    titles = (
        "rotation per step, rad",
        "effective learning rate",
        "norm of the head",
        "feature norm",
        "last gains (rms)",
    )
    figure = make_subplots(rows=3, cols=2, subplot_titles=titles, vertical_spacing=0.1)
    figure.update_layout(**_layout(height=860))
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
    line(3, 1, [one.last_gain for _, one in seen], name="last gains (rms)", line={"color": "#8c4fa3"})
    for column, measure in ((1, "rotation"), (2, "effective_learning_rate")):
        values = [getattr(getattr(one, role), measure) for role, _, _ in _ROLES for _, one in seen]
        figure.update_yaxes(**log_axis(values), row=1, col=column)
    for row in (2, 3):
        figure.update_yaxes(rangemode="tozero", row=row)
    figure.update_xaxes(title="epoch")
    return figure


def _figure(*, height: int) -> Any:
    return go.Figure(layout=_layout(height=height))


def _layout(*, height: int) -> dict[str, Any]:
    return {"template": "plotly_white", "height": height, "margin": {"l": 60, "r": 20, "t": 40, "b": 50}}


def trial_label(trial: TrialView) -> str:
    """A trial in a few words, for a legend or a point."""
    accuracy = trial.validation_accuracy
    found = "" if accuracy is None else f", {100 * accuracy:.2f} %"
    return f"trial {trial.number} ({trial.kind}){found}"
