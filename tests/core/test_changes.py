"""``key.path=value``: what it changes, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixnorm_core.changes import Change
from fixnorm_core.errors import SpecError
from fixnorm_core.jobfile import load_job_file
from fixnorm_core.spec import JobSpec


def changed(folder: Path, text: str, *written: str) -> JobSpec:
    file = folder / "job.yaml"
    file.write_text(text, encoding="utf-8")
    return load_job_file(file, changes=[Change.parse(change) for change in written])


def refusal(folder: Path, text: str, *written: str) -> str:
    with pytest.raises(SpecError) as caught:
        changed(folder, text, *written)
    assert caught.value.way_out
    return caught.value.rule


@pytest.mark.parametrize(
    ("written", "document"),
    [
        ("name=other", {"name": "other"}),
        ("training.epochs=20", {"training": {"epochs": 20, "batch_size": 8}}),
        ("training.optimizer.momentum=1e-1", {"training": {"batch_size": 8, "optimizer": {"momentum": 0.1}}}),
        ("training.randaugment.num_ops=3", {"training": {"batch_size": 8, "randaugment": {"num_ops": 3}}}),
        ("training.batch_size=null", {"training": {"batch_size": None}}),
        ("training.batch_size=", {"training": {"batch_size": None}}),
        ("search.space.lr=[1e-3, 1]", {"search": {"space": {"lr": [0.001, 1]}}}),
        ("training={epochs: 3}", {"training": {"epochs": 3}}),
        ("data.path=/a=b", {"data": {"path": "/a=b"}}),
        (" training . epochs = 3", {"training": {"epochs": 3, "batch_size": 8}}),
    ],
)
def test_a_change_sets_one_field_and_leaves_the_others(written: str, document: dict[str, Any]) -> None:
    start: dict[str, Any] = {"training": {"batch_size": 8}}
    Change.parse(written).apply(start)
    assert start == {"training": {"batch_size": 8}} | document


def test_a_group_that_is_null_becomes_one() -> None:
    document: dict[str, Any] = {"training": None}
    Change.parse("training.epochs=3").apply(document)
    assert document == {"training": {"epochs": 3}}


def test_changes_are_made_in_the_order_they_are_given(tmp_path: Path) -> None:
    spec = changed(tmp_path, "name: a\n", "training.epochs=3", "training={batch_size: 4}", "name=b", "name=c")
    assert (spec.training.epochs, spec.training.batch_size, spec.name) == (JobSpec().training.epochs, 4, "c")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("training.epochs", ["'training.epochs' has no '='"]),
        ("training..epochs=3", ["empty key", "'training..epochs'"]),
        ("=3", ["empty key"]),
        ("name=[a", ["name=[a: '[a' is not a YAML value"]),
        ("name=\x07", ["not a YAML value"]),
        ("data={path: a, path: b}", ["data={path: a, path: b}:1", "'path' is written twice"]),
        ("name.first=x", ["name.first=x: name is 'a' and not a group of fields"]),
    ],
)
def test_a_change_that_cannot_be_made_is_refused_with_what_was_written(
    written: str, words: list[str], tmp_path: Path
) -> None:
    rule = refusal(tmp_path, "name: a\n", written)
    for word in words:
        assert word in rule


def test_a_broken_rule_names_the_change_that_broke_it_and_else_the_line(tmp_path: Path) -> None:
    rule = refusal(tmp_path, "name: a\nseed: -1\n", "training.epochs=many", "budget.max_trials=2", "trainin.x=1")
    place = tmp_path / "job.yaml"
    assert rule.splitlines() == [
        "training.epochs=many: training.epochs: 'many' does not fit; it should be a valid integer, unable to parse "
        "string as an integer",
        "budget.max_trials=2: budget: confirm_runs is 2 of max_trials 2, which leaves no trial to search with: raise "
        "max_trials or lower confirm_runs",
        f"{place}:2: seed: -1 does not fit; it should be greater than or equal to 0",
        "trainin.x=1: trainin: unknown field 'trainin'; did you mean 'training'?",
    ]


@pytest.mark.parametrize("written", ["data.path=./photos", "data={name: imagefolder, path: ./photos}"])
def test_a_path_that_is_set_starts_where_the_person_is_and_not_at_the_job_file(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    spec = changed(tmp_path, "data: {name: imagefolder, path: ./other}\n", written)
    assert spec.data.path == str((here / "photos").resolve())
    untouched = changed(tmp_path, "data: {name: imagefolder, path: ./other}\n", "data.image_size=8")
    assert untouched.data.path == str((tmp_path / "other").resolve())
