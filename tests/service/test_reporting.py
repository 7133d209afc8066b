"""The report in Markdown, from a real training run and from the views of a job."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from standin import best, trial

from fixnorm_core.reports import EpochReport, TrialResult
from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec
from fixnorm_core.training.trainer import Trainer
from service.database.rows import JobRow
from service.jobs.files import JobFiles
from service.jobs.folders import trial_folder
from service.reporting.recipe import job_file, submitted_file
from service.reporting.report import render_report
from service.reporting.result import read_history
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


def test_the_report_tells_the_diagnostics_in_numbers(run: tuple[tuple[EpochReport, ...], TrialResult]) -> None:
    history, result = run
    job = JobRow(id="j1", name="digits")
    given: dict[str, Any] = {"best": best(), "trials": TRIALS, "run": result}
    text = render_report(job, SPEC, history=history, **given)
    assert history[-1].diagnostics is not None
    last = history[-1].diagnostics.head.rotation
    assert re.search(rf"\| rotation, head \| \S+ \| {last:.3g} \|", text)
    assert f"| cross-boundary risk |  | {100 * (result.cross_boundary_risk or 0):.2f} % |" in text
    assert re.search(rf"\| norm of the head \| \S+ \| {history[-1].head_norm:.3g} \|", text)
    assert "`fixnorm-tune report j1 -o report.html`" in text
    assert "Diagnostics" not in render_report(job, SPEC, history=(), **given)


def test_the_report_names_the_images_that_were_left_out(run: tuple[tuple[EpochReport, ...], TrialResult]) -> None:
    _, whole = run
    fewer = whole.model_copy(update={"skipped_images": 7, "skipped_examples": ("cat/1.jpg", "dog/2.jpg")})
    job = JobRow(id="j1", name="digits")
    told, untold = (render_report(job, SPEC, best=best(), trials=TRIALS, run=result) for result in (fewer, whole))
    assert "left out of training and validation: 7, the first `cat/1.jpg`, `dog/2.jpg`." in told
    assert "left out" not in untold


def test_the_epochs_of_a_run_are_read_from_its_folder(
    run_folder: Path, run: tuple[tuple[EpochReport, ...], TrialResult], tmp_path: Path
) -> None:
    files, folder = JobFiles(tmp_path), trial_folder(tmp_path, "j1", 3)
    assert read_history(files, "j1", 3, run[1]) == ()
    folder.mkdir(parents=True)
    shutil.copy(run_folder / "result.json", folder)
    assert read_history(files, "j1", 3, run[1]) == run[0]
    (folder / "result.json").write_text("{")
    assert read_history(files, "j1", 3, run[1]) == ()


def test_no_report_tells_the_webhook_which_may_be_a_secret() -> None:
    spec = SPEC.model_copy(update={"webhook": "https://hooks.example/T0KEN"})
    job = JobRow(id="j1", name="digits")
    text = render_report(job, spec, best=best(), trials=TRIALS, run=None)
    assert "T0KEN" not in text + submitted_file(spec) + job_file(spec, best())
    assert JobSpec.model_validate(yaml.safe_load(submitted_file(spec))) == SPEC


def test_reporting_imports_no_torch() -> None:
    code = "import sys, service.reporting.live; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
