"""Where nodes work on trials whose files are kept in an object store: whose folder it is, and what is left in it."""

from __future__ import annotations

import os
import pwd
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from nodes import Node

from worker.contracts import Failed, FailureKind, Stopped, TrainTask
from worker.keeping import prepared
from worker.run_task import run_task


def test_what_killed_processes_left_in_a_scratch_folder_goes_and_what_others_use_stays(
    node: Node, tmp_path: Path
) -> None:
    from filelock import FileLock

    root = tmp_path / "1" / f"fixnorm-tune-trials-{os.getuid()}"
    for name in ("job-0a.0.1", "job-0a.1.1.rank-2", "job-0b.0.1"):
        (root / name / "logs").mkdir(parents=True)
        (root / f"{name}.lock").touch()
    with FileLock(root / "job-0b.0.1.lock"):
        node.train(1, stop=lambda: True)
    assert sorted(path.name for path in root.iterdir()) == ["job-0b.0.1", "job-0b.0.1.lock"]


def test_a_scratch_folder_that_has_other_uses_loses_nothing_of_them(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of data sets keeps a free lock beside each that is in use."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    named, unnamed = tmp_path / "1", tmp_path / "cache" / "fixnorm-tune" / "trials"
    files = []
    for root in (named, named / f"fixnorm-tune-trials-{os.getuid()}", unnamed):
        for name in ("models", "0123456789abcdef", f"0123456789abcdef.{'a' * 32}"):
            (root / name).mkdir(parents=True)
            files += [root / name / "precious.bin", root / f"{name}.lock"]
    for name in ("job-0a.0.1", "job-of-others"):
        (named / name).mkdir()
        files += [named / name / "precious.bin", named / f"{name}.lock"]
    for path in files:
        path.touch()
    for scratch in (str(named), None):
        task = TrainTask("job-0.0.1", node.trial, "/nowhere", artifacts=replace(node.artifacts(1), scratch=scratch))
        with prepared(task) as (here, _):
            assert Path(here.folder).is_dir()
            assert Path(here.folder).is_relative_to(tmp_path)
    assert [path for path in files if not path.exists()] == []


def test_a_scratch_folder_that_cannot_be_made_names_the_setting_and_is_no_fault_of_the_job(
    node: Node, tmp_path: Path
) -> None:
    (tmp_path / "1").touch()
    outcome = node.train(1)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.OUTAGE  # of this node, which is soon out of use
    assert "FIXNORM_SCRATCH" in outcome.message


def test_a_node_without_the_extra_is_told_how_to_get_it_and_is_no_fault_of_the_job(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    outcome = node.train(1)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.OUTAGE
    assert "Install the extra s3 there" in outcome.message


def test_a_scratch_folder_that_others_can_write_to_is_not_worked_in(node: Node, tmp_path: Path) -> None:
    root = tmp_path / "1" / f"fixnorm-tune-trials-{os.getuid()}"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    root.parent.mkdir()
    root.symlink_to(theirs)
    linked = node.train(1)
    root.unlink()
    root.mkdir()
    root.chmod(0o777)
    for outcome in (linked, node.train(1)):
        assert isinstance(outcome, Failed)
        assert "others may write to it" in outcome.message
    assert [*theirs.iterdir(), *root.iterdir()] == []
    root.chmod(0o2770)
    assert isinstance(node.train(1, stop=lambda: True), Stopped)
    assert root.stat().st_mode & 0o077 == 0


def test_an_account_without_a_home_folder_is_told_what_to_set(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's that runs under a number that its image does not know."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    task = TrainTask("t.1", node.trial, "/nowhere", artifacts=replace(node.artifacts(1), scratch=None))
    outcome = run_task(task, cache=node.cache, report=lambda _: None)
    assert isinstance(outcome, Failed)
    assert "no home folder" in outcome.message
    assert "FIXNORM_SCRATCH" in outcome.message


def test_whatever_is_raised_before_a_task_begins_is_its_outcome(node: Node) -> None:
    task = TrainTask("t.1", node.trial, "/nowhere", artifacts=replace(node.artifacts(1), scratch="/tmp/\0"))
    outcome = run_task(task, cache=node.cache, report=lambda _: None)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.CRASHED
