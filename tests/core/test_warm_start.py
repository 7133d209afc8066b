"""``search.warm_start``: what a finished job has learned, in another job's units, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fixnorm_core.changes import Change
from fixnorm_core.errors import SpecError
from fixnorm_core.jobfile import load_job_file
from fixnorm_core.spec import DataSpec, JobSpec, Method, ModelSpec, Summary, TrainingSpec, warm_starts_of


def learned(job: str = "job-a", **changes: Any) -> dict[str, Any]:
    knobs = ("lr", "weight_decay" if changes.get("method") == "weight_decay" else "fc_norm")
    fields = {
        "job": job,
        "method": Method.FIXNORM,
        "model": ModelSpec(),
        "data": DataSpec(),
        "training": TrainingSpec.model_validate(changes.pop("training", {})),
        "params": dict.fromkeys(knobs, 0.02),
        "spread": dict.fromkeys(knobs, 0.5),
        "validation_accuracy": 0.9,
        "trials": 8,
    }
    return Summary.model_validate(fields | changes).model_dump(mode="json")


def job(*parents: Any, training: dict[str, Any] | None = None, **search: Any) -> JobSpec:
    return JobSpec.model_validate({"search": {"warm_start": parents} | search, "training": training or {}})


@pytest.mark.parametrize(
    ("there", "here", "lr"),
    [
        ({}, {}, 0.02),
        ({}, {"weight_norm": 4.0}, 0.32),
        ({"weight_norm": 2.0}, {}, 0.005),
        ({}, {"optimizer": {"momentum": 0.95}}, 0.01),
        ({"weight_norm": "init"}, {"weight_norm": "init", "optimizer": {"momentum": 0.8}}, 0.04),
        ({"optimizer": {"name": "adamw"}}, {"optimizer": {"name": "adamw", "momentum": 0.5}, "weight_norm": 3.0}, 0.06),
        ({}, {"batch_size": 256, "epochs": 90}, 0.02),
    ],
)
def test_the_learning_rate_is_translated_so_that_weights_turn_as_far(
    there: dict[str, Any], here: dict[str, Any], lr: float
) -> None:
    spec = job(learned(training=there, params={"lr": 0.02, "fc_norm": 3.0}), training=here)
    assert warm_starts_of(spec.search, training=spec.training)[0].params == pytest.approx({"lr": lr, "fc_norm": 3.0})


def test_of_weight_decay_only_the_momentum_is_translated() -> None:
    parent = learned(method="weight_decay", training={"weight_norm": 2.0})
    spec = job(parent, method="weight_decay", training={"optimizer": {"momentum": 0.8}})
    translated = warm_starts_of(spec.search, training=spec.training)[0].params
    assert translated == pytest.approx({"lr": 0.04, "weight_decay": 0.02})


def test_a_best_point_outside_the_new_range_is_moved_to_its_end_with_a_note() -> None:
    spec = job(learned(params={"lr": 0.02, "fc_norm": 40.0}), training={"optimizer": {"momentum": 0.95}})
    warm = warm_starts_of(spec.search, training=spec.training)[0]
    assert warm.inside == pytest.approx({"lr": 0.01, "fc_norm": 16.0})
    assert warm.note == ("job-a was best at lr 0.01 (0.02 there); fc_norm 40, moved to 16, the end of its range")


@pytest.mark.parametrize(
    ("parents", "more", "rule"),
    [
        ([learned(method="weight_decay")], {}, "tuned lr, weight_decay .method weight_decay., and this job tunes"),
        ([learned()], {"method": "weight_decay"}, "set search.method to fixnorm"),
        ([learned(training={"optimizer": {"name": "adamw"}})], {}, "trained with adamw, and training.optimizer is sgd"),
        ([learned(training={"weight_norm": "init"})], {}, "at norm init, and training.weight_norm is 1.0"),
        ([learned(), learned()], {}, "job-a is named twice"),
        (["job-a", "job-a"], {}, "job-a is named twice"),
        ([f"job-{number}" for number in range(21)], {}, "at most 20 items"),
        ([learned() | {"params": {"lr": 0.1}}], {}, r"has \['lr'\]; method fixnorm has the knobs"),
    ],
)
def test_what_says_nothing_for_this_job_is_refused(parents: list[Any], more: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        job(*parents, **more)


def test_a_spec_that_was_stored_before_it_existed_reads_back_and_so_does_one_with_summaries() -> None:
    stored = JobSpec().model_dump(mode="json")
    del stored["search"]["warm_start"]
    assert JobSpec.from_stored(stored) == JobSpec()
    spec = job(learned(), "job-b")
    assert JobSpec.from_stored(json.loads(spec.model_dump_json())) == spec


def test_a_job_file_names_jobs_and_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(learned("job-a")))
    (tmp_path / "many.json").write_text(json.dumps([learned("job-b"), learned("job-c") | {"newer": 1}]))
    path = tmp_path / "job.yaml"
    path.write_text("search: {warm_start: [one.json, job-d, ./many.json]}\n")
    parents = load_job_file(path).search.warm_start
    assert [each if isinstance(each, str) else each.job for each in parents] == ["job-a", "job-d", "job-b", "job-c"]


def test_a_single_parent_needs_no_list(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("search: {warm_start: job-a}\n")
    assert load_job_file(tmp_path / "job.yaml").search.warm_start == ("job-a",)


def test_a_file_that_is_named_on_the_command_line_is_looked_for_where_the_person_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    (here / "one.json").write_text(json.dumps(learned()))
    (there / "job.yaml").write_text("name: a\n")
    monkeypatch.chdir(here)
    spec = load_job_file(there / "job.yaml", changes=[Change.parse("search.warm_start=[one.json]")])
    assert len(spec.search.warm_start) == 1


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not JSON"),
        ("[3]", "holds no summary: 3 does not fit"),
        (json.dumps(learned() | {"trials": 0}), "holds no summary: trials: 0 does not fit"),
    ],
)
def test_a_file_that_is_no_summary_is_refused_by_name(tmp_path: Path, content: str | None, rule: str) -> None:
    if content is not None:
        (tmp_path / "learned.json").write_text(content)
    path = tmp_path / "job.yaml"
    path.write_text("search: {warm_start: [./learned.json]}\n")
    with pytest.raises(SpecError, match=rf"learned\.json, which {rule}.*fixnorm-tune summary"):
        load_job_file(path)


def test_a_broken_entry_is_named_with_its_place_in_the_job_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"search:\n  warm_start: [job-a, {json.dumps(learned() | {'trial': 3})}]\n")
    with pytest.raises(SpecError, match=r"job\.yaml:2: search\.warm_start\.1\.trial: unknown field 'trial'; did you"):
        load_job_file(path)
