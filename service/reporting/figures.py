"""The charts of a job page and of the dashboard, as plotly's data and layout: plain values, drawn again and again.

Colors of text and background are the page's, which knows whether it is dark; colors of the data are readable on both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna import Study

from fixnorm_core.spec import JobSpec
from fixnorm_core.tuning.choice import build_sampler, search_space
from fixnorm_core.tuning.sampler import FixNormSampler
from service.reporting.charts import count_axis, log_axis, round_ticks, trial_label
from service.schemas import BestView, TrialState, TrialView

__all__ = ["curves_chart", "surface_chart"]

Chart = dict[str, Any]
Trace = dict[str, Any]
Values = npt.NDArray[np.float64]

_BEST, _OTHER, _DIVERGED = "#2f7fd1", "#98a2ad", "#d1495b"
_GRID = 31
_KNOBS = 2
_LEVELS = 16
_BELOW_MEDIAN = 6.0
_NARROWEST = 2.0  # percentage points: what differs by less than that looks alike, as it is
_FAILED = {"width": 2.5, "color": _DIVERGED}
_WHOLE = {"cliponaxis": False}  # a mark at a limit of its knob is not cut off


def curves_chart(trials: Sequence[TrialView], *, best: BestView | None) -> Chart:
    """Validation accuracy after each epoch, one line a trial; those at the best point lie on top."""
    traces = []
    for trial in sorted(trials, key=lambda trial: _is_best(trial, best)):
        chosen, diverged = _is_best(trial, best), trial.state is TrialState.DIVERGED
        traces.append(
            {
                "type": "scatter",
                "x": list(range(1, len(trial.curve) + 1)),
                "y": [_percent(accuracy) for accuracy in trial.curve],
                "mode": "lines+markers" if len(trial.curve) == 1 else "lines",
                "name": trial_label(trial),
                "line": {
                    "color": _BEST if chosen else _DIVERGED if diverged else _OTHER,
                    "width": 3 if chosen else 1.5,
                    "dash": "dash" if diverged else "dot" if trial.state is TrialState.RUNNING else "solid",
                },
            }
        )
    epochs = max((trial.epochs for trial in trials), default=1)
    is_told = any(trial.curve for trial in trials)
    return {
        "data": traces,
        "layout": {
            "showlegend": False,
            "xaxis": {"range": [0.8, epochs + 0.2], **count_axis("epoch", most=epochs)},
            "yaxis": {"title": {"text": "validation accuracy, %"}, **({} if is_told else {"range": [0, 100]})},
        },
    }


def surface_chart(spec: JobSpec, trials: Sequence[TrialView], *, best: BestView | None, study: Study | None) -> Chart:
    """The two knobs on log scales: what the strategy expects everywhere, and every trial on top of it.

    Args:
        spec: The job.
        trials: Its trials.
        best: The best point so far.
        study: Its study; None leaves the expectation out, and so does a study without a complete trial.
    """
    across, up = list(spec.search.space)[:_KNOBS]
    spans = {knob: spec.search.space[knob] for knob in (across, up)}
    finished = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    expected = _expected(spec, study, across, up) if study is not None and finished else None
    found = [100 * (trial.validation_accuracy or 0.0) for trial in finished]
    low, high = _color_range(found, expected[2] if expected is not None else None)
    colors = {"colorscale": "Viridis", "showscale": expected is None, "colorbar": _colorbar(low, high)}
    traces = [_belief(*expected, across, up, low=low, high=high)] if expected is not None else []
    rims = ["#222222" if value > (low + high) / 2 else "#ffffff" for value in found]  # on yellow white is not seen
    marker = {"size": 13, "color": found, "cmin": low, "cmax": high, "line": {"width": 1.5, "color": rims}, **colors}
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]  # below: another try lies on top
    traces += _dots(failed, across, up, name="failed", marker={"symbol": "x-thin", "size": 9, "line": _FAILED})
    traces += _dots(finished, across, up, name="complete", marker=marker)
    for state, name, look in (
        (TrialState.RUNNING, "running", {"symbol": "circle-open", "size": 13, "line": {"width": 2.5}, "color": _BEST}),
        (TrialState.DIVERGED, "diverged", {"symbol": "x", "size": 11, "color": _DIVERGED}),
        (TrialState.PRUNED, "stopped early", {"symbol": "circle-x-open", "size": 11, "color": _OTHER}),
    ):
        traces += _dots([trial for trial in trials if trial.state is state], across, up, name=name, marker=look)
    if best is not None:
        star = {"symbol": "star", "size": 20, "color": "#ff9f1c", "line": {"width": 1.5, "color": "#222222"}}
        at = {"x": [best.params[across]], "y": [best.params[up]]}
        traces.append({"type": "scatter", "mode": "markers", "name": "best point", "marker": star, **at, **_WHOLE})
    axes = {knob: log_axis((spans[knob].low, spans[knob].high)) for knob in spans}
    ranges = {knob: [math.log10(spans[knob].low), math.log10(spans[knob].high)] for knob in spans}
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": across}, "range": ranges[across], **axes[across]},
            "yaxis": {"title": {"text": up}, "range": ranges[up], **axes[up]},
            "showlegend": True,  # for a single kind of marks too
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        },
    }


def _expected(spec: JobSpec, study: Study, across: str, up: str) -> tuple[Values, Values, Values] | None:
    """The expected accuracy, %, over a grid: what the job's FixNormSampler believes, or one of our own would of the
    trials that another has proposed.
    """
    xs, ys = (np.geomspace(spec.search.space[knob].low, spec.search.space[knob].high, _GRID) for knob in (across, up))
    points = [{across: float(x), up: float(y)} for y in ys for x in xs]
    try:
        sampler = build_sampler(spec.search, training=spec.training, seed=spec.seed)
        if not isinstance(sampler, FixNormSampler):
            sampler = FixNormSampler(search_space(spec.search), seed=spec.seed)
        expected = sampler.expected(study, points)
    except ValueError:  # the study has no complete trial yet: the views were read a moment later
        return None
    return xs, ys, 100 * np.clip(np.array(expected), 0.0, 1.0).reshape(_GRID, _GRID)


def _belief(xs: Values, ys: Values, expected: Values, across: str, up: str, *, low: float, high: float) -> Trace:
    return {
        "type": "contour",
        "name": "expected",
        "x": xs.tolist(),
        "y": ys.tolist(),
        "z": expected.round(3).tolist(),
        "zmin": low,
        "zmax": high,
        "autocontour": False,
        "contours": {"start": low, "end": high, "size": (high - low) / _LEVELS},
        "colorscale": "Viridis",
        "colorbar": _colorbar(low, high),
        "opacity": 0.8,
        "line": {"width": 0.5, "color": "rgba(255,255,255,0.4)"},
        "hovertemplate": f"expected %{{z:.2f}} %<br>{across} %{{x:.3g}}, {up} %{{y:.3g}}<extra></extra>",
    }


def _color_range(found: Sequence[float], expected: Values | None) -> tuple[float, float]:
    """The accuracies that the colors tell apart: the good ones; a few bad trials must not use up the scale."""
    if not found:
        return 0.0, 100.0
    high = max([*found, *([float(expected.max())] if expected is not None else [])])
    middle = float(np.median(found))
    low = max(min(found), middle - _BELOW_MEDIAN * (high - middle))
    if len(found) == 1 and expected is not None:  # nothing to tell apart yet but what is expected
        low = float(expected.min())
    return (low, high) if high - low > _NARROWEST else (high - _NARROWEST, high)


def _colorbar(low: float, high: float) -> dict[str, Any]:
    ticks = round_ticks(low, high)
    return {
        "title": {"text": "%"},
        "thickness": 12,
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _dots(trials: Sequence[TrialView], across: str, up: str, *, name: str, marker: dict[str, Any]) -> list[Trace]:
    placed = [trial for trial in trials if {across, up} <= trial.params.keys()]
    if not placed:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [trial.params[across] for trial in placed],
            "y": [trial.params[up] for trial in placed],
            "text": [trial_label(trial) for trial in placed],
            "hovertemplate": f"%{{text}}<br>{across} %{{x:.4g}}, {up} %{{y:.4g}}<extra></extra>",
            "marker": marker,
            **_WHOLE,
        }
    ]


def _is_best(trial: TrialView, best: BestView | None) -> bool:
    return best is not None and trial.params == best.params


def _percent(fraction: float | None) -> float | None:
    return round(100 * fraction, 4) if fraction is not None and math.isfinite(fraction) else None
