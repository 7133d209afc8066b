"""Workers write into folders of jobs, beside users' code: through no link there does a server read, write or prune."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from byhand import put, run_to_end, server
from pruning import pruner
from serving import serving

from fixnorm_core.spec import JobSpec
from service.composition import Service
from service.database.rows import AttemptState
from service.jobs.folders import best_folder, job_folder, open_own, trial_folder
from service.jobs.last_words import add_last_words
from service.retention.policy import Policy
from service.schemas import JobState
from service.settings import Settings

SECRET = "what the server alone may read"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "of the server"
    path.write_text(SECRET)
    return path


@pytest.fixture
def ended(settings: Settings, job: dict[str, Any]) -> Iterator[tuple[Service, str]]:
    """A server, and a job that has ended on it."""
    with server(settings) as service:
        job_id = put(service, JobSpec.model_validate(job))
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        yield service, job_id


def test_a_file_is_opened_that_no_link_leads_to(tmp_path: Path, secret: Path) -> None:
    state, linked = tmp_path / "state", tmp_path / "linked"
    (state / "a" / "b").mkdir(parents=True)
    (state / "a" / "b" / "file").write_bytes(b"own")
    (state / "a" / "link").symlink_to(secret)
    (state / "out").symlink_to(tmp_path)
    linked.symlink_to(state)
    for below in (state, linked):  # an operator's own link is none of a worker's
        with open_own(below / "a" / "b" / "file", below=below) as file:
            assert file.read() == b"own"
    for path in ("a/link", f"out/{secret.name}", "a/b/file/below"):
        for appends in (False, True):
            with pytest.raises(FileNotFoundError):
                open_own(state / path, below=state, appends=appends)
    for path in ("a/b", "a/none"):
        with pytest.raises(FileNotFoundError):
            open_own(state / path, below=state)
    with open_own(state / "a" / "none", below=state, appends=True) as file:
        file.write(b"made")
    assert (state / "a" / "none").read_bytes() == b"made"
    assert secret.read_text() == SECRET


@pytest.mark.parametrize("of_the_folder", [False, True])
def test_a_log_that_is_a_link_is_neither_shown_nor_written(
    ended: tuple[Service, str], secret: Path, of_the_folder: bool
) -> None:
    service, job_id = ended
    log = service.runtime.files.log(job_id, 0, f"{job_id}.0.1")
    log.path.parent.parent.mkdir(parents=True, exist_ok=True)
    if of_the_folder:
        secret = secret.rename(secret.with_name(log.path.name))
        log.path.parent.symlink_to(secret.parent)
    else:
        log.path.parent.mkdir()
        log.path.symlink_to(secret)
    assert log.size() is None
    assert log.read(0, 1000) == b""
    add_last_words(log, AttemptState.LOST, "words of a user", now=datetime.now(UTC))
    assert secret.read_text() == SECRET
    with serving(service.app) as url:
        assert SECRET not in httpx.get(f"{url}/api/v1/jobs/{job_id}/trials/0/logs").text


def test_a_report_that_is_a_link_or_is_gone_is_not_served(ended: tuple[Service, str], secret: Path) -> None:
    service, job_id = ended
    report = best_folder(service.runtime.settings.state_dir, job_id) / "report.md"
    with serving(service.app) as url:
        asked = f"{url}/api/v1/jobs/{job_id}/report"
        assert httpx.get(asked).text == report.read_text(encoding="utf-8")
        report.unlink()
        assert "is there no more" in httpx.get(asked).json()["detail"]
        report.symlink_to(secret)
        assert httpx.get(asked).status_code == 410


def test_a_result_is_not_written_through_a_link(settings: Settings, job: dict[str, Any], tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "report.md").write_text(SECRET)
    with server(settings) as service:
        job_id = put(service, JobSpec.model_validate(job))
        best = best_folder(settings.state_dir, job_id)
        best.parent.mkdir(parents=True)
        best.symlink_to(theirs)
        assert run_to_end(service, job_id) is JobState.FAILED
    assert [path.name for path in theirs.iterdir()] == ["report.md"]
    assert (theirs / "report.md").read_text() == SECRET


@pytest.mark.parametrize("policy", [Policy(logs=timedelta(0), checkpoints=timedelta(0)), Policy(jobs=timedelta(0))])
def test_what_a_link_leads_to_is_not_removed(
    ended: tuple[Service, str], tmp_path: Path, job: dict[str, Any], policy: Policy
) -> None:
    service, job_id = ended
    settings = service.runtime.settings
    run_to_end(service, put(service, JobSpec.model_validate(job)))  # the newest job stays
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("log", "checkpoint-000001.pt", ".weights.partial"):
        (theirs / name).write_text(SECRET)
    folder = trial_folder(settings.state_dir, job_id, 0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "logs").symlink_to(theirs)
    folder.with_name("0001").symlink_to(theirs)
    list(pruner(service, policy).prune())
    assert len(list(theirs.iterdir())) == 3
    assert (job_folder(settings.state_dir, job_id) / "trials").exists() is (policy.jobs is None)
