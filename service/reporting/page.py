"""The report of a job as one HTML file: it asks nobody for anything, and shows a job in any state."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import plotly
import plotly.io
import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fixnorm_core.reports import ClassEvaluation, EpochReport, TrialResult
from fixnorm_core.spec import JobSpec, SamplerName
from service.reporting.classes import class_rows, confusion_chart
from service.reporting.diagnostics import DIAGNOSTICS_NOTE, diagnostic_charts, diagnostic_rows
from service.reporting.figures import curves_chart, surface_chart
from service.reporting.optuna_charts import history_chart, importance_chart, knobs_of, slice_chart
from service.reporting.recipe import job_file, submitted_file, training_code
from service.reporting.rows import percent
from service.reporting.story import what_was_tried, why_it_stopped
from service.schemas import BestView, JobView, TrialState, TrialView

__all__ = ["Reported", "render_page"]

Chart = dict[str, Any]

_MOST_CURVES = 200
_MOST_ROWS = 1000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reported:
    """All that a report tells of.

    Attributes:
        job: The job as it is now.
        trials: All its trials.
        study: Its study; None before it exists.
        run: The training run whose weights are the best; None before there is one.
        history: Its epochs.
        server_versions: Packages of the server, by name.
        at: When the report is made, in UTC.
        code: The Python file that came with the job.
        classes: How each class fared on the test split; None where that was not counted.
    """

    job: JobView
    trials: Sequence[TrialView]
    study: optuna.Study | None
    run: TrialResult | None
    history: Sequence[EpochReport]
    server_versions: Mapping[str, str]
    at: datetime
    code: str | None = None
    classes: ClassEvaluation | None = None


@dataclass(slots=True)
class _Charts:
    """The charts of a page by the ids of their places, as they are drawn."""

    drawn: dict[str, Chart] = field(default_factory=dict)

    def place(self, chart: Chart | None) -> str | None:
        """The id of a chart's place; None for no chart."""
        if chart is None:
            return None
        name = f"chart-{len(self.drawn)}"
        self.drawn[name] = chart
        return name


def render_page(reported: Reported) -> str:
    """The whole page; the same input gives the same page."""
    job, trials, charts = reported.job, reported.trials, _Charts()
    best, spec = job.best, job.spec
    knobs = list(dict.fromkeys([*spec.search.space, *(knob for trial in trials for knob in trial.params)]))
    curves = _notable(trials, best)
    values = {
        "job": job,
        "best": best,
        "at": reported.at,
        "tried": what_was_tried(job, trials),
        "stopped": why_it_stopped(job),
        "knobs": knobs,
        "trials": trials[:_MOST_ROWS],
        "left_out": max(0, len(trials) - _MOST_ROWS),
        "surface": charts.place(_surface(reported)),
        "axes": list(spec.search.space)[:2],
        "curves": charts.place(curves_chart(curves, best=best) if any(trial.curve for trial in curves) else None),
        "curves_left_out": len(trials) - len(curves),
        "studied": [(title, words, charts.place(chart)) for title, words, chart in _studied(reported.study)],
        "diagnosed": [(title, charts.place(chart)) for title, chart in diagnostic_charts(reported.history).items()],
        "diagnostics": list(diagnostic_rows(reported.history, reported.run)) if reported.run is not None else [],
        "diagnostics_note": DIAGNOSTICS_NOTE,
        "classes": class_rows(reported.classes) if reported.classes is not None else [],
        "matrix": charts.place(confusion_chart(reported.classes) if reported.classes is not None else None),
        "data": _data(spec, reported.run, best),
        "environment": _environment(reported),
        "repeats": _repeats(spec),
        "sent": reported.code,
        "submitted": submitted_file(spec),
        "file": job_file(spec, best) if best is not None else None,
        "code": training_code(spec, best) if best is not None else None,
        "charts": _script_safe(charts.drawn),
        "plotly": packed_plotly() if charts.drawn else "",
        "style": Markup(_read("report.css")),  # ours  # nosec B704
        "script": Markup(_read("copy.js") + _read("report.js")),  # ours  # nosec B704
    }
    return _environment_of_templates().get_template("report.html").render(values)


@cache
def packed_plotly() -> Markup:
    """Plotly's JavaScript as its package has it, gzip in base64: 2.0 MB in place of 4.8; the page unpacks it itself."""
    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    return Markup(base64.b64encode(gzip.compress(script.read_bytes(), 9, mtime=0)).decode())  # plotly's  # nosec B704


def _surface(reported: Reported) -> Chart | None:
    """With the strategy's belief where it has one over two knobs; None where there are no two numbers to show."""
    job, trials = reported.job, reported.trials
    if len(job.spec.search.space) < 2 or not trials:
        return None
    try:
        return surface_chart(job.spec, trials, best=job.best, study=reported.study)
    except (KeyError, ValueError) as error:  # the belief of a search that has more knobs than two, say
        log.info("report.no_belief", job=job.id, error=repr(error))
        return surface_chart(job.spec, trials, best=job.best, study=None)


def _studied(study: optuna.Study | None) -> list[tuple[str, str, Chart]]:
    if study is None:
        return []
    knobs = knobs_of(study.get_trials(deepcopy=False))
    drawn = [
        ("Every trial in order", "The line is the best so far.", history_chart(study)),
        (
            "What the accuracy depends on most",
            "Share of the spread over these trials; of so few, a hint and no more.",
            importance_chart(study),
        ),
        *(
            (
                f"Accuracy over {knob}",
                "Each dot is a trial; they differ in all else too.",
                slice_chart(study, knob),
            )
            for knob in knobs
        ),
    ]
    return [(title, words, chart) for title, words, chart in drawn if chart is not None]


def _notable(trials: Sequence[TrialView], best: BestView | None) -> Sequence[TrialView]:
    """Those whose curves are drawn: all, or of very many the best and those that run."""
    if len(trials) <= _MOST_CURVES:
        return trials
    chosen = best.trials if best is not None else ()
    ranked = sorted(
        trials,
        key=lambda trial: (
            trial.number in chosen,
            trial.state is TrialState.RUNNING,
            trial.validation_accuracy or 0.0,
        ),
        reverse=True,
    )
    return sorted(ranked[:_MOST_CURVES], key=lambda trial: trial.number)


def _data(spec: JobSpec, run: TrialResult | None, best: BestView | None) -> list[tuple[str, str]]:
    rows = [("data set", spec.data.name)]
    if run is not None:
        rows.append(("classes", str(run.classes)))
        if run.train_examples is not None:
            rows.append(("training images", str(run.train_examples)))
        rows.append(("validation images", str(run.validation_examples)))
    if best is not None and best.test is not None:
        rows.append(("test images", f"{best.test.examples}, seen by no trial, measured once"))
    if run is not None and run.skipped_images:
        rows.append(("damaged images left out", f"{run.skipped_images}, the first {', '.join(run.skipped_examples)}"))
    given = spec.data.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    rows += [(f"data.{name}", str(value)) for name, value in given.items()]
    return rows


def _environment(reported: Reported) -> list[tuple[str, str]]:
    run = reported.run
    rows = [] if run is None else [("device of the best run", run.device), *sorted(run.versions.items())]
    told = {name for name, _ in rows}
    rows += [(f"{name} (server)", version) for name, version in reported.server_versions.items() if name not in told]
    return rows


def _repeats(spec: JobSpec) -> str:
    """What can be expected of running the job again."""
    bits = (
        "a trial ends in the same bits"
        if spec.training.deterministic
        else "a trial ends in nearly the same numbers (training.deterministic is off)"
    )
    if spec.search.sampler is SamplerName.FIXNORM and spec.budget.parallel_trials == 1:
        points = "and the same points are proposed"
    else:
        points = "and what is proposed depends on the order in which trials end"
    return f"With seed {spec.seed}, on the same device and with these versions, {bits}, {points}."


def _script_safe(charts: Mapping[str, Chart]) -> Markup:
    text = str(plotly.io.json.to_json_plotly(dict(charts)))
    safe = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(safe)  # nothing of it can end a script  # nosec B704


def _value(value: object) -> str:
    """A knob's value: four digits of a number, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


@cache
def _read(name: str) -> str:
    return (Path(__file__).with_name("templates") / name).read_text(encoding="utf-8")


@cache
def _environment_of_templates() -> Environment:
    made = Environment(
        loader=PackageLoader("service.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "value": _value}
    return made
