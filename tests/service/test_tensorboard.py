"""TensorBoard's event files, read back by TensorBoard: every step once, whatever was killed when."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from byhand import put, run_to_end, server, trials
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from waiting import wait_for, wait_until

from fixnorm_core.spec import JobSpec
from service.composition import Service
from service.events.records import events_after
from service.events.schemas import EventKind, EventView
from service.jobs.folders import tensorboard_folder
from service.jobs.reopening import extend
from service.schemas import JobState, TrialState, TrialView
from service.settings import Settings
from service.trackers.contracts import Tracked
from service.trackers.follower import Follower
from service.trackers.tensorboard import FINAL_TEST, FINAL_VALIDATION, VALIDATION, TensorBoardTracker, run_name

JOBS = "/api/v1/jobs"


def read(folder: Path) -> EventAccumulator:
    """All that TensorBoard finds in a run's folder; it neither thins out nor drops what is doubled."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    found.Reload()
    return found


def curve(folder: Path, tag: str = VALIDATION) -> list[tuple[int, float]]:
    found = read(folder)
    return [(event.step, event.value) for event in found.Scalars(tag)] if tag in found.Tags()["scalars"] else []


def runs(state_dir: Path, job_id: str) -> dict[str, Path]:
    return {path.name: path for path in sorted(tensorboard_folder(state_dir, job_id).iterdir())}


def check(state_dir: Path, job_id: str, views: list[TrialView]) -> None:
    """Every trial has each of its epochs once, and its end."""
    found = runs(state_dir, job_id)
    assert list(found) == [run_name(view.number) for view in views]
    for view in views:
        told = curve(found[run_name(view.number)])
        assert [step for step, _ in told] == list(range(1, len(view.curve) + 1))
        assert [value for _, value in told] == pytest.approx(view.curve)
        for tag in ("loss/train", "loss/validation", "head/norm", "learning_rate"):
            assert [step for step, _ in curve(found[run_name(view.number)], tag)] == [step for step, _ in told]
        assert curve(found[run_name(view.number)], FINAL_VALIDATION) == [
            (view.epochs, pytest.approx(view.validation_accuracy))
        ]


def views_of(http: httpx.Client, job_id: str) -> list[TrialView]:
    return [TrialView.model_validate(one) for one in http.get(f"{JOBS}/{job_id}/trials").json()]


def hparams(folder: Path) -> dict[str, HParamsPluginData]:
    found = read(folder)
    content = found.PluginTagToContent("hparams")
    return {tag: HParamsPluginData.FromString(data) for tag, data in content.items()}


def follower(service: Service, settings: Settings, clock: Any = time.monotonic) -> Follower:
    return Follower(TensorBoardTracker(settings.state_dir), service.runtime.database, lambda: True, clock)


def test_every_trial_has_its_curves_hyperparameters_and_final_numbers(
    http: httpx.Client, settings: Settings, job: dict[str, Any]
) -> None:
    view = wait_for(http, http.post(JOBS, json=job).json()["id"])
    assert view.best is not None
    assert view.best.test is not None
    best = tensorboard_folder(settings.state_dir, view.id) / run_name(view.best.weights_trial)
    wait_until(lambda: best.is_dir() and bool(curve(best, FINAL_TEST)))
    views = views_of(http, view.id)
    check(settings.state_dir, view.id, views)
    assert curve(best, FINAL_TEST) == [(views[0].epochs, pytest.approx(view.best.test.accuracy))]
    for trial in views:
        found = hparams(runs(settings.state_dir, view.id)[run_name(trial.number)])
        start = found["_hparams_/session_start_info"].session_start_info
        assert {name: start.hparams[name].number_value for name in trial.params} == pytest.approx(trial.params)
        assert start.hparams["model"].string_value == view.spec.model.name
        metrics = found["_hparams_/experiment"].experiment.metric_infos
        assert {metric.name.tag for metric in metrics} == {VALIDATION, FINAL_VALIDATION, FINAL_TEST}
        assert found["_hparams_/session_end_info"].session_end_info.status == 1  # success


def test_off_means_that_nothing_is_written(settings: Settings, job: dict[str, Any]) -> None:
    off = settings.model_copy(update={"tensorboard": False})
    with server(off) as service:
        job_id = put(service, JobSpec.model_validate(job))
        run_to_end(service, job_id)
        service.close()
    assert not tensorboard_folder(settings.state_dir, job_id).exists()


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(job | {"budget": {"max_trials": 4, "confirm_runs": 1, "stop_early": False}})


@pytest.mark.both_databases
@pytest.mark.parametrize("seed", range(2))
def test_a_server_killed_at_any_moment_doubles_and_loses_no_step(settings: Settings, spec: JobSpec, seed: int) -> None:
    chance, job_id = random.Random(seed), ""
    for life in range(4):
        with server(settings) as service:
            job_id = job_id or put(service, spec)
            service.dispatcher.recover()
            told = follower(service, settings)
            for _ in range(chance.randint(1, 12)):
                service.dispatcher.tick()
                if chance.random() < 0.6:
                    told.look()
            # The follower is dropped as it is; of some files a write was torn
            for file in tensorboard_folder(settings.state_dir, job_id).glob("*/events*"):
                if chance.random() < 0.5 and life % 2:
                    with file.open("ab") as torn:
                        torn.write(b"\x20\0\0\0\0\0\0\0\x11\x22"[: chance.randint(1, 10)])
    with server(settings) as service:
        service.dispatcher.recover()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        told = follower(service, settings)
        while told.look():
            pass
        ended = trials(service, job_id)
        found = runs(settings.state_dir, job_id)
        assert len(found) == len(ended) == 4
        for trial in ended:
            values = trial.intermediate_values
            assert curve(found[run_name(trial.number)]) == [
                (step, pytest.approx(values[step])) for step in sorted(values)
            ]
            assert [step for step, _ in curve(found[run_name(trial.number)], "loss/train")] == sorted(values)
        assert told.look() == 0


def test_what_is_told_again_adds_nothing_to_the_files(settings: Settings, spec: JobSpec) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        run_to_end(service, job_id)
        follower(service, settings).look()
        sizes = {path: path.stat().st_size for path in tensorboard_folder(settings.state_dir, job_id).rglob("events*")}
        assert len(sizes) == 4
        with service.runtime.database.read() as session:
            events = events_after(session, job_id, 0, limit=10_000)
        job = Tracked(job_id, spec, JobState.SUCCEEDED, None)
        tracker = TensorBoardTracker(settings.state_dir)
        tracker.tell(job, events)
        tracker.tell(job, events)
        tracker.close()
        assert {path: path.stat().st_size for path in sizes} == sizes


def test_a_job_that_goes_on_after_its_end_is_followed_on(settings: Settings, job: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(job | {"budget": {"max_trials": 2, "confirm_runs": 0, "stop_early": False}})
    with server(settings) as service:
        database = service.runtime.database
        job_id = put(service, spec)
        told = follower(service, settings)
        run_to_end(service, job_id)
        while told.look():
            pass
        assert len(runs(settings.state_dir, job_id)) == 2
        extend(job_id, 2, database=database, key=None, now=service.runtime.now())
        service.dispatcher.wake()
        run_to_end(service, job_id)
        while told.look():
            pass
        assert len(runs(settings.state_dir, job_id)) == 4


def test_a_folder_that_cannot_be_written_costs_the_job_nothing_and_is_told_once(
    settings: Settings, spec: JobSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    with server(settings) as service:
        job_id = put(service, spec)
        folder = tensorboard_folder(settings.state_dir, job_id)
        folder.parent.mkdir(parents=True)
        folder.write_text("in the way")
        told = follower(service, settings, clock=lambda: now[0])
        for _ in range(400):
            service.dispatcher.tick()
            told.look()
            now[0] += 0.5
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert capfd.readouterr().err.count("tracker.failed") == 1
        folder.unlink()
        now[0] += 1000
        while told.look():
            now[0] += 1000
        assert [len(curve(path)) > 0 for path in runs(settings.state_dir, job_id).values()] == [True] * 4


def test_what_is_no_number_is_left_out(tmp_path: Path, spec: JobSpec) -> None:
    when = "2026-01-01T12:00:00Z"
    event = EventView(
        number=1, job="j", kind=EventKind.TRIAL_EPOCH, at=when, trial=0, epoch=1, measures={"train_loss": 2}
    )
    tracker = TensorBoardTracker(tmp_path)
    tracker.tell(Tracked("j", spec, JobState.RUNNING, None), [event])
    tracker.close()
    folder = tensorboard_folder(tmp_path, "j") / run_name(0)
    assert read(folder).Tags()["scalars"] == ["loss/train"]
    assert curve(folder, "loss/train") == [(1, 2.0)]


@pytest.mark.parametrize("of_the_folder", [False, True])
def test_no_link_that_a_worker_has_left_is_written_through(tmp_path: Path, spec: JobSpec, of_the_folder: bool) -> None:
    theirs, state = tmp_path / "theirs", tmp_path / "state"
    theirs.mkdir()
    file = theirs / "events.out.tfevents.1"
    file.write_bytes(b"no event, and the server's own")
    folder = tensorboard_folder(state, "j") / run_name(0)
    folder.parent.mkdir(parents=True)
    if of_the_folder:
        folder.symlink_to(theirs)
    else:
        folder.mkdir()
        (folder / file.name).symlink_to(file)
    event = EventView(
        number=1, job="j", kind=EventKind.TRIAL_EPOCH, at=datetime(2026, 1, 1, tzinfo=UTC), trial=0, epoch=1
    )
    tracker = TensorBoardTracker(state)
    tracker.tell(Tracked("j", spec, JobState.RUNNING, None), [event.model_copy(update={"measures": {"train_loss": 2}})])
    tracker.close()
    assert file.read_bytes() == b"no event, and the server's own"
    assert list(theirs.iterdir()) == [file]


def test_a_trial_that_was_stopped_early_has_its_final_number_at_its_last_epoch(tmp_path: Path, spec: JobSpec) -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    assert spec.training.epochs > 3
    events = [
        EventView(number=n, job="j", kind=EventKind.TRIAL_EPOCH, at=when, trial=0, epoch=n, validation_accuracy=0.1 * n)
        for n in (1, 2, 3)
    ]
    end, pruned = EventKind.TRIAL_ENDED, TrialState.PRUNED
    events.append(EventView(number=4, job="j", kind=end, at=when, trial=0, state=pruned, validation_accuracy=0.3))
    for _ in range(2):  # what is told again after a crash is at the same step
        tracker = TensorBoardTracker(tmp_path)
        tracker.tell(Tracked("j", spec, JobState.RUNNING, None), events)
        tracker.close()
    assert curve(tensorboard_folder(tmp_path, "j") / run_name(0), FINAL_VALIDATION) == [(3, pytest.approx(0.3))]


def has_runs(folder: Path, *, more_than: int) -> bool:
    return len(list(folder.glob("*/events*"))) > more_than


def _serve(settings: Settings, folder: Path, life: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "service.cli.main", "serve", "--port", "0", "--backend", "simulator"]
    command += ["--state-dir", str(settings.state_dir), "--url-file", str(folder / f"url-{life}")]
    environment = os.environ | {"FIXNORM_EPOCH_SECONDS": "0.15"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _url(folder: Path, life: int) -> str:
    file = folder / f"url-{life}"
    wait_until(lambda: file.exists() and bool(file.read_text().strip()), seconds=180)
    return file.read_text().strip()


def test_a_real_server_killed_by_the_system_goes_on_with_the_same_files(
    settings: Settings, spec: JobSpec, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"state_dir": tmp_path / "real"})
    job_id = ""
    for life in range(2):
        process = _serve(settings, tmp_path, life)
        try:
            with httpx.Client(base_url=_url(tmp_path, life), timeout=60) as http:
                job_id = job_id or http.post(JOBS, json=spec.model_dump(mode="json")).json()["id"]
                folder = tensorboard_folder(settings.state_dir, job_id)
                wait_until(partial(has_runs, folder, more_than=life))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    process = _serve(settings, tmp_path, 2)
    try:
        with httpx.Client(base_url=_url(tmp_path, 2), timeout=60) as http:
            view = wait_for(http, job_id, seconds=240)
            assert view.best is not None
            best = folder / run_name(view.best.weights_trial)
            wait_until(lambda: bool(curve(best, FINAL_TEST)))
            check(settings.state_dir, job_id, views_of(http, job_id))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def test_the_method_and_the_worker_know_no_tracker() -> None:
    code = "import sys, fixnorm_core, worker.run_task; sys.exit(bool({'tensorboard', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys, service.trackers.tensorboard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
