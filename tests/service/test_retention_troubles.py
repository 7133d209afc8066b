"""Files that cannot be removed, two that prune at once, and what is still to be told of a job."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from byhand import put, run_to_end, server
from pruning import ALL, FILES, files_of, of, pruner, three_ended
from sqlalchemy import delete
from typer.testing import CliRunner

from fixnorm_core.spec import JobSpec
from service.cli.main import app
from service.composition import Service
from service.database.rows import JobRow
from service.retention.janitor import Janitor
from service.retention.policy import Policy, What
from service.retention.prune import Pruner, PruningAlready
from service.settings import Settings
from service.trackers import positions
from service.trackers.follower import Follower


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    budget = {"max_trials": 1, "confirm_runs": 0, "stop_early": False}
    return JobSpec.model_validate(job | {"budget": budget})


@pytest.fixture
def ended_jobs(service: Service, http: httpx.Client, spec: JobSpec) -> list[str]:
    """Three that have ended, oldest first, with files as a real worker would leave them."""
    return three_ended(service, http, spec)


def refuse(monkeypatch: pytest.MonkeyPatch, refused: Path) -> None:
    """Has one file be somebody else's; root, who may run this, could remove it all the same."""
    unlink = Path.unlink

    def unlink_others(path: Path, missing_ok: bool = False) -> None:
        if path == refused:
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_others)


@pytest.mark.parametrize("policy", [Policy(logs=timedelta(0)), Policy(last_jobs=0, keep_best=False)])
def test_a_file_that_cannot_be_removed_is_told_of_and_keeps_nothing_else(
    service: Service,
    ended_jobs: list[str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    policy: Policy,
) -> None:
    first, second, _ = ended_jobs
    stuck = settings.state_dir / "jobs" / first / "trials/0000/logs/1.log"
    removed = {What.LOGS, What.SCRATCH} if policy.logs is not None else set(What)
    with monkeypatch.context() as patch:
        refuse(patch, stuck)
        for _ in range(2):  # a mark that was left holds up no later call
            kept = [each for each in pruner(service, policy).prune() if each.kept is not None]
            assert [each.job for each in kept] == [first]
            assert str(stuck) in str(kept[0].kept)
            assert files_of(settings, first) == of(*removed) | {"trials/0000/logs/1.log"}
            assert files_of(settings, second) == of(*removed)
        Janitor(pruner(service, policy), lambda: True).clean()
        assert "retention.kept" in capfd.readouterr().err
        policy_options = ["--logs-days=0"] if policy.logs is not None else ["--keep-jobs=0", "--best-too"]
        monkeypatch.setenv("FIXNORM_DATABASE_URL", settings.url)
        told = CliRunner().invoke(app, ["prune", "--state-dir", str(settings.state_dir), *policy_options])
        assert told.exit_code == 1
        assert f"of job {first}: [Errno 1] Operation not permitted: '{stuck}'" in told.output
        assert "database" not in told.output
    assert [each.kept for each in pruner(service, policy).prune()] == [None]
    assert files_of(settings, first) == of(*removed)


def test_one_prunes_at_a_time_whoever_else_tries(
    service: Service, ended_jobs: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = pruner(service, Policy(last_jobs=1)).prune()
    next(going)
    with pytest.raises(PruningAlready):
        list(pruner(service, ALL).prune())
    monkeypatch.setenv("FIXNORM_DATABASE_URL", settings.url)
    told = CliRunner().invoke(app, ["prune", "--state-dir", str(settings.state_dir)])
    assert told.exit_code == 2
    assert "another process prunes" in told.output
    assert [each.what for each in going if each.job == ended_jobs[0]] == [What.JOB]
    assert list(pruner(service, Policy(last_jobs=1)).prune()) == []


def test_a_job_that_a_tracker_has_not_been_told_all_of_stays_while_that_is_switched_on(
    settings: Settings, spec: JobSpec
) -> None:
    with server(settings) as service:
        untold = put(service, spec)
        for job_id in (untold, put(service, spec)):
            run_to_end(service, job_id)
        cleaner = pruner(service, ALL)
        telling = Pruner(cleaner.database, cleaner.open_storage, cleaner.state_dir, ALL, cleaner.now, settings.trackers)
        assert not any(each.what is What.JOB for each in telling.plan())
        with service.runtime.database.write.begin() as session:
            for position in positions.behind(session, "tensorboard"):
                positions.complete(session, position.job_id, "tensorboard", position.last)
        assert [each.job for each in telling.plan() if each.what is What.JOB] == [untold]


class Deaf:
    """A tracker that must be told nothing."""

    name = "tensorboard"

    def tell(self, *_: object) -> None:
        raise AssertionError

    def close(self) -> None:
        pass


def test_a_follower_passes_over_a_job_that_was_removed_after_it_looked(settings: Settings, spec: JobSpec) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        telling = Follower(Deaf(), service.runtime.database, lambda: True, lambda: 0.0)
        with service.runtime.database.write.begin() as session:
            (position,) = positions.behind(session, "tensorboard")
            session.execute(delete(JobRow).where(JobRow.id == job_id))
        assert position.last > 0
        assert telling._follow(position) == 0


def test_closing_waits_for_a_janitor_that_hangs_only_a_little(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, let_go = threading.Event(), threading.Event()

    def hang() -> bool:
        hangs.set()
        return not let_go.wait(60)

    monkeypatch.setattr("service.retention.janitor._FIRST_SECONDS", 0.0)
    monkeypatch.setattr("service.retention.janitor._PATIENCE_SECONDS", 0.01)
    janitor = Janitor(pruner(service, ALL), hang)
    janitor.start()
    assert hangs.wait(60)
    janitor.close()
    assert janitor._thread is not None
    assert janitor._thread.is_alive()
    let_go.set()
    janitor._thread.join(60)


def test_a_janitor_that_is_stopped_leaves_what_is_left_of_interrupted_removals(
    service: Service, ended_jobs: list[str], settings: Settings
) -> None:
    folder = settings.state_dir / "jobs" / "gone"
    folder.mkdir()
    (folder / ".removing").touch()
    janitor = Janitor(pruner(service, ALL), lambda: True)
    janitor.close()
    janitor.clean()
    assert (folder / ".removing").exists()
    assert files_of(settings, ended_jobs[0]) == set(FILES)
    Janitor(pruner(service, Policy()), lambda: True).clean()
    assert not folder.exists()
