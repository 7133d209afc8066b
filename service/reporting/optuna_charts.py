"""What Optuna draws of a study, as plotly's data and layout: the history, each knob by itself, what matters most."""

from __future__ import annotations

import html
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from service.reporting.charts import count_axis, log_axis

__all__ = ["history_chart", "importance_chart", "knobs_of", "slice_chart"]

Chart = dict[str, Any]

_TARGET = "validation accuracy"
_PERCENT = {"tickformat": ".1~%"}
_DOT = "#2f7fd1"
_FEWEST_FOR_IMPORTANCE = 4
_MOST_FOR_FANOVA = 300
"""Complete trials; beyond them its forest takes seconds, and PED-ANOVA does the same at once."""


def history_chart(study: optuna.Study) -> Chart | None:
    """Each trial's accuracy in the order of the trials, and the best so far; None before the first complete one."""
    if not _complete(study.get_trials(deepcopy=False)):
        return None
    chart = _drawn(optuna.visualization.plot_optimization_history(study, target_name=_TARGET))
    chart["layout"]["yaxis"] = chart["layout"].get("yaxis", {}) | _PERCENT
    chart["layout"]["xaxis"] = chart["layout"].get("xaxis", {}) | count_axis(
        "trial", most=len(study.get_trials(deepcopy=False))
    )
    for trace in chart["data"]:
        if trace.get("name") == "Best Value":
            trace["name"] = "best so far"
    chart["layout"]["legend"] = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return chart


def slice_chart(study: optuna.Study, knob: str) -> Chart | None:
    """The accuracy over one knob, whatever the others were; None where no complete trial has it."""
    complete = _complete(study.get_trials(deepcopy=False))
    if not any(knob in trial.params for trial in complete):
        return None
    chart = _drawn(optuna.visualization.plot_slice(study, params=[knob], target_name=_TARGET))
    chart["layout"]["yaxis"] = chart["layout"].get("yaxis", {}) | _PERCENT
    for trace in chart["data"]:  # Optuna's own scale, from white to blue, is of no use on white
        trace["marker"] = {"color": _DOT, "size": 9, "opacity": 0.8}
    if chart["layout"].get("xaxis", {}).get("type") == "log":
        chart["layout"]["xaxis"] |= log_axis(trial.params.get(knob) for trial in complete)
    return chart


def importance_chart(study: optuna.Study) -> Chart | None:
    """How much of the spread in accuracy each knob explains; None for too few trials, or where they are all alike."""
    complete = _complete(study.get_trials(deepcopy=False))
    if len(complete) < _FEWEST_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        evaluator = (
            FanovaImportanceEvaluator(seed=0) if len(complete) <= _MOST_FOR_FANOVA else PedAnovaImportanceEvaluator()
        )
        try:
            drawn = optuna.visualization.plot_param_importances(study, evaluator=evaluator, target_name=_TARGET)
        except (RuntimeError, ValueError):  # no knob that all of them have, or none that was varied
            return None
    chart = _drawn(drawn)
    if not chart["data"] or not chart["data"][0].get("y"):
        return None
    chart["layout"]["yaxis"] = chart["layout"].get("yaxis", {}) | {"title": {"text": ""}}
    chart["layout"]["xaxis"] = chart["layout"].get("xaxis", {}) | {"title": {"text": "share"}, "range": [0, 1.08]}
    return chart


def knobs_of(trials: Sequence[FrozenTrial]) -> dict[str, bool]:
    """Every knob that a trial has, in the order of their first appearance, and whether it is a number."""
    found: dict[str, bool] = {}
    for trial in trials:
        for knob, distribution in trial.distributions.items():
            found.setdefault(knob, isinstance(distribution, (FloatDistribution, IntDistribution)))
    return found


def _complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state is TrialState.COMPLETE]


def _drawn(figure: Any) -> Chart:
    """Without title and template, which the page has its own of; names are text, and plotly reads them as HTML."""
    chart: Chart = figure.to_plotly_json()
    layout = {name: value for name, value in chart["layout"].items() if name not in ("template", "title")}
    for name, axis in layout.items():
        if name.startswith(("xaxis", "yaxis")) and isinstance(axis.get("title", {}).get("text"), str):
            axis["title"] = {"text": html.escape(axis["title"]["text"], quote=False)}
    shown = [trace for trace in chart["data"] if trace.get("x") is None or len(trace["x"])]  # not "Infeasible Trial"
    return {"data": shown, "layout": layout}
