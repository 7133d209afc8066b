"""The report and its charts, from a real training run and from the views of a job."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from standin import best, trial
from waiting import wait_for

from fixnorm_core.reports import EpochReport, TrialResult
from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec
from fixnorm_core.training.trainer import Trainer
from service.database.rows import JobRow
from service.reporting.charts import render_charts
from service.reporting.report import render_report
from service.reporting.result import _history
from service.schemas import TrialState

TRIALS = [
    trial(0, params={"lr": 0.01, "fc_norm": 1.0}),
    trial(1, params={"lr": 0.012345, "fc_norm": 2.3}),
    trial(2, TrialState.DIVERGED, params={"lr": 1.0, "fc_norm": 9.0}, curve=(0.1,)),
    trial(3, TrialState.FAILED, params={"lr": 0.5, "fc_norm": 9.0}, curve=()),
]
SPEC = JobSpec(
    model=ModelSpec(options={"width": 4}),
    data=DataSpec(train_limit=120, validation_limit=60),
    training=TrainingSpec(epochs=3, device="cpu"),
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    list(Trainer(SPEC.trial({"lr": 0.01, "fc_norm": 2.0}, seed=0), folder=folder))
    return folder


@pytest.fixture(scope="module")
def run(run_folder: Path) -> tuple[tuple[EpochReport, ...], TrialResult]:
    trainer = Trainer(SPEC.trial({"lr": 0.01, "fc_norm": 2.0}, seed=0), folder=run_folder)
    return tuple(trainer), trainer.result()


def figures(page: str) -> list[list[dict[str, Any]]]:
    """The data of every chart of a page."""
    starts = re.finditer(r'Plotly\.newPlot\(\s*"chart-\d+",\s*', page)
    return [json.JSONDecoder().raw_decode(page, start.end())[0] for start in starts]


def test_the_page_needs_no_network_and_is_the_same_each_time() -> None:
    page = render_charts("a <b>job</b> & more", best=best(), trials=TRIALS)
    assert page == render_charts("a <b>job</b> & more", best=best(), trials=TRIALS)
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    assert "<h1>a &lt;b&gt;job&lt;/b&gt; &amp; more</h1>" in page


def test_every_learning_curve_is_drawn_and_every_finished_trial_is_on_the_surface() -> None:
    curves, surface = figures(render_charts("job", best=best(), trials=TRIALS))
    assert {curve["name"].split(" (")[0]: curve["y"] for curve in curves}["trial 1"] == pytest.approx([50, 80, 93.33])
    assert len(curves) == len(TRIALS)
    points = {trace["name"]: trace["x"] for trace in surface}
    assert points == {"complete": [0.01, 0.012345], "diverged": [1.0], "best point": [0.012345]}


def test_the_result_stands_on_top_and_every_run_at_the_best_point_is_blue() -> None:
    page = render_charts("job", best=best(trials=(8, 9)), trials=TRIALS)
    top = page[: page.index("<h2>")]
    for told in ("98.26 % ± 0.35 %", "97.50 %", "all 3 trials are used", "weights.safetensors", 'href="report.md"'):
        assert told in top
    colors = {curve["name"].split(" (")[0]: curve["line"]["color"] for curve in figures(page)[0]}
    assert [number for number, color in colors.items() if color == "#0b62a4"] == ["trial 1"]


def test_the_best_runs_mechanisms_are_drawn(run: tuple[tuple[EpochReport, ...], TrialResult]) -> None:
    history, _ = run
    *_, mechanisms = figures(render_charts("job", best=best(), trials=TRIALS, history=history))
    lines = {(trace["name"], trace["yaxis"]): trace["y"] for trace in mechanisms}
    assert history[0].diagnostics is not None
    assert lines["scale-invariant", "y"][0] == pytest.approx(history[0].diagnostics.scale_invariant.rotation)
    assert lines["head norm", "y3"] == pytest.approx([report.head_norm for report in history])
    assert lines["its bound", "y3"] == pytest.approx([history[0].head_bound] * 3)
    assert {name for name, _ in lines} >= {"head", "free", "feature norm", "last gains (rms)"}


def test_the_report_tells_the_diagnostics_in_numbers(run: tuple[tuple[EpochReport, ...], TrialResult]) -> None:
    history, result = run
    job = JobRow(id="j1", name="digits")
    given: dict[str, Any] = {"best": best(), "trials": TRIALS, "run": result, "charts": "report.html"}
    text = render_report(job, SPEC, history=history, **given)
    assert history[-1].diagnostics is not None
    last = history[-1].diagnostics.head.rotation
    assert re.search(rf"\| rotation, head \| \S+ \| {last:.3g} \|", text)
    assert f"| cross-boundary risk |  | {100 * (result.cross_boundary_risk or 0):.2f} % |" in text
    assert "[report.html](report.html)" in text
    assert "Diagnostics" not in render_report(job, SPEC, history=(), **given)


def test_the_report_names_the_images_that_were_left_out(run: tuple[tuple[EpochReport, ...], TrialResult]) -> None:
    _, whole = run
    fewer = whole.model_copy(update={"skipped_images": 7, "skipped_examples": ("cat/1.jpg", "dog/2.jpg")})
    job = JobRow(id="j1", name="digits")
    told, untold = (
        render_report(job, SPEC, best=best(), trials=TRIALS, run=result, charts="report.html")
        for result in (fewer, whole)
    )
    assert "left out of training and validation: 7, the first `cat/1.jpg`, `dog/2.jpg`." in told
    assert "left out" not in untold


def test_the_epochs_of_a_run_are_read_from_its_folder(
    run_folder: Path, run: tuple[tuple[EpochReport, ...], TrialResult], tmp_path: Path
) -> None:
    assert _history(run_folder) == run[0]
    assert _history(tmp_path) == ()
    (tmp_path / "result.json").write_text("{")
    assert _history(tmp_path) == ()


def test_a_jobs_charts_lie_beside_its_report(http: httpx.Client, job: dict[str, Any]) -> None:
    view = wait_for(http, http.post("/api/v1/jobs", json=job).json()["id"])
    assert view.best is not None
    assert view.best.report is not None
    page = Path(view.best.report).with_name("report.html").read_text(encoding="utf-8")
    curves, _ = figures(page)
    assert len(curves) == view.progress.finished


def test_reporting_imports_no_torch() -> None:
    code = "import sys, service.reporting.result; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
