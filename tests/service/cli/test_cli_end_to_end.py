"""The command line against a real server process, whose trials the simulator replays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from fixnorm_core.jobfile import load_job_file
from service.cli.main import app
from service.schemas import BestView, JobState, JobView
from worker.recording import Recording

MAIN = [sys.executable, "-m", "service.cli.main"]
CLI = Callable[..., Result]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    url_file = folder / "url"
    options = ["--backend", "simulator", "--cpus", "2", "--port", "0", "--state-dir", folder / "state"]
    command = [*MAIN, "serve", *map(str, options), "--url-file", str(url_file)]
    log = folder / "log"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as server:
        deadline = time.monotonic() + 60
        while not (url_file.exists() and url_file.read_text()):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield url_file.read_text().strip()
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0, log.read_text()
    assert not url_file.exists()


@pytest.fixture
def tune(served: str, monkeypatch: pytest.MonkeyPatch) -> CLI:
    monkeypatch.setenv("FIXNORM_SERVER", served)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    spec = Recording.packaged().job.model_dump(mode="json")
    spec["search"] |= {"sampler": "random"}
    spec |= {"name": "replayed", "budget": {"max_trials": 4, "confirm_runs": 1, "parallel_trials": 2}}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(spec))
    return file


def job_ids(tune: CLI, *options: str) -> list[str]:
    done = tune("list", "-o", "json", *options)
    assert done.exit_code == 0, done.stderr
    return [job["id"] for job in json.loads(done.stdout)]


def test_a_job_is_submitted_watched_and_read_back(tune: CLI, job_file: Path) -> None:
    done = tune("submit", job_file, "--watch")
    assert (done.exit_code, done.stderr) == (0, "")
    job_id = done.stdout.split()[1]
    assert f"Best point of job {job_id} (replayed)" in done.stdout
    for number in range(4):
        assert f"trial {number} started" in done.stdout
        assert f"trial {number} finished" in done.stdout

    shown = JobView.model_validate_json(tune("show", job_id, "-o", "json").stdout)
    assert shown.state is JobState.SUCCEEDED
    assert shown.progress.finished == 4
    assert BestView.model_validate_json(tune("best", job_id, "-o", "json").stdout) == shown.best
    assert tune("best", job_id).stdout in done.stdout
    assert [trial["number"] for trial in json.loads(tune("trials", job_id, "-o", "json").stdout)] == [0, 1, 2, 3]
    assert job_id in job_ids(tune, "--state", "succeeded")


def test_what_a_finished_job_leaves_is_exported_and_its_recipe_is_a_job_again(
    tune: CLI, job_file: Path, tmp_path: Path
) -> None:
    job_id = tune("submit", job_file, "--watch").stdout.split()[1]
    watched = tune("watch", job_id)
    assert f"Best point of job {job_id}" in watched.stdout
    folder = tmp_path / "new" / "folder"
    done = tune("export", job_id, folder)
    assert done.exit_code == 0
    assert "no weights" in done.stderr  # nothing was trained
    names = ("job.yaml", "recipe.yaml", "training.py", "best.json", "report.md", "report.html")
    assert done.stdout.splitlines() == [str(folder / name) for name in names]
    told = json.loads(tune("export", job_id, folder, "-o", "json").stdout)
    assert told == {"job": job_id, "files": [str(folder / name) for name in names]}
    assert load_job_file(folder / "job.yaml") == load_job_file(job_file)
    found = BestView.model_validate_json((folder / "best.json").read_text())
    recipe = load_job_file(folder / "recipe.yaml")
    assert recipe.search.start == pytest.approx(found.params, rel=1e-3)
    assert f"lr={found.params['lr']:.4g}" in (folder / "training.py").read_text()
    assert tune("report", job_id).stdout == (folder / "report.md").read_text()
    charts = tune("report", job_id, "--html").stdout
    assert charts.lstrip().lower().startswith("<!doctype html>")
    assert tune("export", "job-0", tmp_path / "none").exit_code == 4
    assert not (tmp_path / "none").exists()


def test_what_finished_jobs_have_learned_is_a_file_that_a_later_job_names(
    tune: CLI, job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ids = [tune("submit", job_file, "--watch", "--name", name).stdout.split()[1] for name in ("one", "two")]
    learned = tune("summary", *ids)
    assert (learned.exit_code, learned.stderr) == (0, "")
    (tmp_path / "learned.json").write_text(learned.stdout)
    submitted = tune("submit", job_file, "--set", "search.warm_start=[learned.json]", "--name", "three")
    assert submitted.exit_code == 0, submitted.stderr
    assert all(f"\n{job_id} was best at lr " in submitted.stdout for job_id in ids)
    shown = tune("show", submitted.stdout.split()[1])
    assert f"warm start  {ids[0]} was best at lr " in shown.stdout
    unknown = tune("submit", job_file, "--set", "search.warm_start=[job-nope]")
    assert (unknown.exit_code, "names 'job-nope', and there is no such job" in unknown.stderr) == (2, True)


def test_the_same_key_starts_one_job(tune: CLI, job_file: Path) -> None:
    first = tune("submit", job_file, "--idempotency-key", "once")
    second = tune("submit", job_file, "--idempotency-key", "once")
    assert first.stdout == second.stdout != ""
    other = tune("submit", job_file, "--idempotency-key", "once", "--name", "other")
    assert other.exit_code == 2


def test_models_and_data_sets_are_the_servers(tune: CLI) -> None:
    assert "small_resnet" in tune("models").stdout
    assert "imagefolder" in tune("datasets").stdout


@pytest.mark.parametrize("command", ["show", "trials", "best", "cancel"])
def test_a_job_that_does_not_exist_is_not_found(tune: CLI, command: str) -> None:
    done = tune(command, "nothing")
    assert done.exit_code == 4
    assert "'nothing'" in done.stderr


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: {name: resnet19}", "resnet19"),
        ("data: {name: imagefolder, path: ./nowhere}", "nowhere"),
        ("resources: {gpus_per_trial: 4}", "gpus_per_trial is 4"),
    ],
)
def test_what_the_server_refuses_is_named_with_a_way_out_and_leaves_no_job(
    tune: CLI, tmp_path: Path, text: str, named: str
) -> None:
    before = job_ids(tune)
    file = tmp_path / "job.yaml"
    file.write_text(text)
    done = tune("submit", file)
    assert done.exit_code == 2
    rule, way_out = done.stderr.splitlines()
    assert rule.startswith("error: ")
    assert named in rule
    assert way_out.startswith("way out: ")
    assert job_ids(tune) == before


def serve_in_vain(*options: object) -> list[str]:
    """What a server that cannot start says on stderr."""
    done = subprocess.run([*MAIN, "serve", *map(str, options)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.splitlines()


def test_a_port_that_is_taken_is_named(served: str, tmp_path: Path) -> None:
    port = served.rsplit(":", 1)[1]
    rule, way_out = serve_in_vain("--port", port, "--state-dir", tmp_path / "state", "--backend", "simulator")
    assert rule.startswith(f"error: port {port} ")
    assert way_out.startswith("way out: ")
    assert not (tmp_path / "state").exists()


def test_a_setting_that_breaks_a_rule_is_named(tmp_path: Path) -> None:
    rule, _ = serve_in_vain("--cpus", "0", "--state-dir", tmp_path / "state")
    assert rule == "error: cpus: 0.0 does not fit; it should be greater than 0"
    assert not (tmp_path / "state").exists()
