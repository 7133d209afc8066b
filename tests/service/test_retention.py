"""What is removed of ended jobs: by age and number, never of one that runs, and again after a crash."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import optuna
import pytest
from pruning import ALL, FILES, files_of, of, pruner, three_ended, write_files
from serving import serving
from typer.testing import CliRunner
from waiting import wait_for, wait_until

from fixnorm_core.spec import JobSpec
from service.administration import prune
from service.cli.main import app
from service.client import Client
from service.composition import Service, build
from service.jobs import repository
from service.retention.janitor import Janitor
from service.retention.policy import EndedJob, Policy, What, decide
from service.retention.prune import Pruner, policy_of
from service.schemas import JobState
from service.settings import Settings
from service.studies.storage import close_storage, open_writing_storage

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def ended(name: str, days: float, *, is_held: bool = False) -> EndedJob:
    return EndedJob(name, NOW - timedelta(days=days), is_held)


def decided(policy: Policy, *jobs: EndedJob) -> dict[str, tuple[What, ...]]:
    return {each.job.id: each.what for each in decide(policy, jobs, now=NOW)}


def test_by_default_nothing_goes_but_what_nobody_can_use() -> None:
    assert decided(policy_of(Settings()), ended("old", 10_000), ended("new", 0.01)) == {"old": (What.SCRATCH,)}


def test_each_kind_goes_when_it_is_as_old_as_it_may_be_and_not_before() -> None:
    policy = Policy(checkpoints=timedelta(days=1), logs=timedelta(days=30), jobs=timedelta(days=365))
    assert decided(policy, *[ended(str(days), days) for days in (0.9, 1, 29.9, 30, 364.9, 365)]) == {
        "0.9": (What.SCRATCH,),
        "1": (What.SCRATCH, What.CHECKPOINTS),
        "29.9": (What.SCRATCH, What.CHECKPOINTS),
        "30": (What.SCRATCH, What.CHECKPOINTS, What.LOGS),
        "364.9": (What.SCRATCH, What.CHECKPOINTS, What.LOGS),
        "365": (What.JOB,),
    }


def test_the_last_jobs_are_counted_from_the_one_that_ended_last() -> None:
    found = decided(Policy(last_jobs=2), ended("b", 2), ended("c", 3), ended("a", 1), ended("d", 4, is_held=True))
    assert found["c"] == (What.JOB,)
    assert {name: what for name, what in found.items() if name != "c"} == dict.fromkeys("abd", (What.SCRATCH,))


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    budget = {"max_trials": 1, "confirm_runs": 0, "stop_early": False}
    return JobSpec.model_validate(job | {"budget": budget})


@pytest.fixture
def ended_jobs(service: Service, http: httpx.Client, spec: JobSpec) -> list[str]:
    """Three that have ended, oldest first, with files as a real worker would leave them."""
    return three_ended(service, http, spec)


@pytest.mark.both_databases
def test_files_go_kind_by_kind_and_a_dry_run_says_so_and_leaves_them(
    service: Service, ended_jobs: list[str], settings: Settings
) -> None:
    policy = Policy(checkpoints=timedelta(hours=1), logs=timedelta(days=2))
    plan = pruner(service, policy).plan()
    assert {(each.job, each.what, each.files, each.bytes) for each in plan} == {
        (name, what, 2, 2000) for name in ended_jobs for what in (What.SCRATCH, What.CHECKPOINTS)
    }
    assert all(files_of(settings, name) == set(FILES) for name in ended_jobs)
    assert list(pruner(service, policy).prune()) == plan
    assert all(files_of(settings, name) == of(What.SCRATCH, What.CHECKPOINTS) for name in ended_jobs)
    assert list(pruner(service, policy).prune()) == []
    list(pruner(service, policy, later=timedelta(days=2)).prune())
    assert all(files_of(settings, name) == of(What.SCRATCH, What.CHECKPOINTS, What.LOGS) for name in ended_jobs)


@pytest.mark.both_databases
@pytest.mark.parametrize("keep_best", [True, False])
def test_a_whole_job_goes_from_both_sets_of_tables_and_the_disk_with_its_best_if_that_is_asked(
    service: Service, http: httpx.Client, ended_jobs: list[str], settings: Settings, keep_best: bool
) -> None:
    first, second, last = ended_jobs
    policy = Policy(last_jobs=1, keep_best=keep_best)
    with Client(str(http.base_url)) as client:
        kept = client.job(last), client.trials(last), client.best(last)
        removed = [each.job for each in pruner(service, policy).prune() if each.what is What.JOB]
        assert removed == [second, first]
        assert {each.id for each in client.jobs()} == {last}
        assert (client.job(last), client.trials(last), client.best(last)) == kept
        assert http.get(f"/api/v1/jobs/{first}").status_code == 404
    assert studies_of(settings) == [last]
    for name in (first, second):
        folder = settings.state_dir / "jobs" / name
        assert folder.exists() is keep_best
        if keep_best:
            assert {path.name for path in folder.iterdir()} == {"best"}
            assert {"weights.safetensors", "report.md", "job.json"} <= {
                path.name for path in (folder / "best").iterdir()
            }
    assert files_of(settings, last) == of(What.SCRATCH)


def studies_of(settings: Settings) -> list[str]:
    storage = open_writing_storage(settings.url)
    try:
        return optuna.get_all_study_names(storage=storage)
    finally:
        close_storage(storage)


@pytest.mark.both_databases
def test_the_numbers_of_a_removed_study_are_not_given_to_a_new_one(
    service: Service, http: httpx.Client, ended_jobs: list[str], spec: JobSpec
) -> None:
    """Servers remember finished trials by them, and SQLite gives the highest ones again once they are free."""
    list(pruner(service, ALL).prune())
    with Client(str(http.base_url)) as client:
        assert [each.id for each in client.jobs()] == ended_jobs[-1:]  # the one with the highest stays for now
        view = client.wait(client.submit(spec).id)
        assert (view.state, view.progress.finished) == (JobState.SUCCEEDED, 1)
        assert [trial.number for trial in client.trials(view.id)] == [0]
        list(pruner(service, ALL).prune())
        assert [each.id for each in client.jobs()] == [view.id]


def test_a_job_that_runs_or_was_reopened_is_not_touched(
    settings: Settings, postgres_url: str, spec: JobSpec, tmp_path: Path
) -> None:
    slow = settings.model_copy(update={"database_url": postgres_url, "epoch_seconds": 0.05})
    service = build(slow)
    with serving(service.app) as url, Client(url) as client:
        done = client.wait(client.submit(spec).id).id
        write_files(slow.state_dir / "jobs" / done)
        client.extend(done, 20)
        running = client.submit(
            spec.model_copy(update={"budget": spec.budget.model_copy(update={"max_trials": 20})})
        ).id
        write_files(slow.state_dir / "jobs" / running)
        wait_until(lambda: client.job(running).state is JobState.RUNNING)
        assert list(pruner(service, ALL).prune()) == []
        for name in (done, running):
            assert files_of(slow, name) == set(FILES)
            client.cancel(name)


def test_one_that_is_reopened_while_its_removal_is_decided_stays(
    service: Service, ended_jobs: list[str], settings: Settings, http: httpx.Client
) -> None:
    class Reopens(Pruner):
        def _decide(self) -> Any:
            found = super()._decide()
            http.post(f"/api/v1/jobs/{ended_jobs[0]}/extend", json={"trials": 1}).raise_for_status()
            return found

    usual = pruner(service, Policy(last_jobs=1))
    removed = Reopens(usual.database, usual.open_storage, usual.state_dir, usual.policy, usual.now).prune()
    assert [each.job for each in removed if each.what is What.JOB] == [ended_jobs[1]]
    assert files_of(settings, ended_jobs[0]) >= of(What.SCRATCH)
    assert not (settings.state_dir / "jobs" / ended_jobs[0] / ".removing").exists()
    view = wait_for(http, ended_jobs[0])
    assert (view.state, view.progress.finished) == (JobState.SUCCEEDED, 2)


@pytest.mark.both_databases
@pytest.mark.parametrize("then", ["_is_still", "Pruner._finish", "shutil.rmtree"])
def test_a_removal_that_was_cut_short_is_brought_to_its_end(
    service: Service, ended_jobs: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    class Killed(BaseException):
        pass

    def dies(*_arguments: object) -> None:
        raise Killed

    cleaner = pruner(service, Policy(last_jobs=1, keep_best=False))
    with monkeypatch.context() as patch:
        patch.setattr(f"service.retention.prune.{then}", dies)
        with pytest.raises(Killed):
            list(cleaner.prune())
    list(cleaner.prune())
    with service.runtime.database.read() as session:
        left = [each.id for each in repository.page_of_jobs(session, state=None, limit=9, before=None)]
    assert left == ended_jobs[-1:]
    assert {path.name for path in (settings.state_dir / "jobs").iterdir()} == {ended_jobs[-1]}
    assert studies_of(settings) == ended_jobs[-1:]


def test_a_job_that_learned_from_another_goes_on_when_that_is_removed(
    service: Service, http: httpx.Client, ended_jobs: list[str], spec: JobSpec, settings: Settings
) -> None:
    document = spec.model_dump(mode="json")
    document["search"]["warm_start"] = [ended_jobs[0]]
    with Client(str(http.base_url)) as client:
        child = client.submit(JobSpec.model_validate(document)).id
        list(pruner(service, Policy(last_jobs=1)).prune())
        assert ended_jobs[0] not in {each.id for each in client.jobs()}
        view = client.wait(child)
        assert view.state is JobState.SUCCEEDED, view.reason
        assert client.extend(child, 1).id == child
        assert client.wait(child).progress.finished == 2


def test_one_whose_webhook_is_still_to_arrive_stays(settings: Settings, spec: JobSpec) -> None:
    service = build(settings.model_copy(update={"webhook_private": True}))
    with serving(service.app) as url, Client(url) as client:
        hooked = spec.model_copy(update={"webhook": "http://127.0.0.1:9/"})  # nobody is there: it is tried again later
        held = client.wait(client.submit(hooked).id).id
        for _ in range(2):
            client.wait(client.submit(spec).id)
        list(pruner(service, ALL).prune())
        assert held in {each.id for each in client.jobs()}


def test_the_command_shows_and_removes_beside_a_running_server(
    ended_jobs: list[str], settings: Settings, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIXNORM_DATABASE_URL", settings.url)
    monkeypatch.setenv("FIXNORM_KEEP_LOGS_DAYS", "0")
    command = ["prune", "--state-dir", str(settings.state_dir), "--keep-jobs", "2"]
    told = CliRunner().invoke(app, [*command, "--dry-run", "-o", "json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert {each["job"] for each in found if each["what"] == "job"} == {ended_jobs[0]}
    assert {each["job"] for each in found if each["what"] == "logs"} == set(ended_jobs[1:])
    assert files_of(settings, ended_jobs[0]) == set(FILES)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert ended_jobs[0] in done.output
    assert files_of(settings, ended_jobs[0]) >= {"best/weights.safetensors"}
    assert http.get(f"/api/v1/jobs/{ended_jobs[0]}").status_code == 404
    assert "nothing to remove" in CliRunner().invoke(app, command).output
    assert prune(settings, Policy(), dry_run=False) == []


@pytest.mark.parametrize("options", [["--jobs-days", "0"], ["--keep-jobs", "0"]])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["", "dry run"])
def test_the_command_removes_no_job_by_a_folder_that_knows_none(
    ended_jobs: list[str],
    settings: Settings,
    http: httpx.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    dry: list[str],
) -> None:
    monkeypatch.setenv("FIXNORM_DATABASE_URL", settings.url)
    (tmp_path / "other").mkdir()
    told = CliRunner().invoke(app, ["prune", "--state-dir", str(tmp_path / "other"), *options, *dry])
    assert told.exit_code == 2
    assert "2 jobs would be removed from the database" in told.output  # the newest study's always stays
    assert "--state-dir" in told.output
    assert {job["id"] for job in http.get("/api/v1/jobs").json()["jobs"]} >= set(ended_jobs)
    (tmp_path / "other" / "jobs").mkdir()  # whoever means it
    assert CliRunner().invoke(app, ["prune", "--state-dir", str(tmp_path / "other"), *options, *dry]).exit_code == 0


def test_a_server_prunes_if_it_is_the_one_that_dispatches(
    service: Service, ended_jobs: list[str], settings: Settings
) -> None:
    def janitor(leads: bool) -> Janitor:
        return Janitor(pruner(service, Policy(checkpoints=timedelta(0))), lambda: leads)

    janitor(False).clean()
    assert all(files_of(settings, name) == set(FILES) for name in ended_jobs)
    janitor(True).clean()
    assert all(files_of(settings, name) == of(What.SCRATCH, What.CHECKPOINTS) for name in ended_jobs)
