from __future__ import annotations

from pathlib import Path

import pytest

from fixnorm_core.errors import SpecError
from fixnorm_core.jobfile import load_job_file, make_job
from fixnorm_core.spec import JobSpec, TrainingSpec


def write(folder: Path, text: str) -> Path:
    file = folder / "job.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, text: str) -> list[str]:
    """The lines of the refusal of a job file with this text, without the file's name."""
    file = write(folder, text)
    with pytest.raises(SpecError) as caught:
        load_job_file(file)
    assert caught.value.way_out
    return [line.removeprefix(f"{file}:") for line in caught.value.rule.split("\n")]


def test_a_job_file_is_the_spec_it_describes(tmp_path: Path) -> None:
    file = write(tmp_path, "name: a\nsearch:\n  space:\n    lr: [1e-3, 1]\nbudget: {max_trials: 5}\n")
    expected = JobSpec.model_validate(
        {"name": "a", "search": {"space": {"lr": [0.001, 1]}}, "budget": {"max_trials": 5}}
    )
    assert load_job_file(file) == expected


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "+1e-3", "1.0e-3", ".1e-2", "0.001"])
def test_every_way_to_write_a_number_is_a_number(tmp_path: Path, written: str) -> None:
    file = write(tmp_path, f"model:\n  options: {{drop: {written}}}\n")
    assert load_job_file(file).model.options == {"drop": 0.001}


@pytest.mark.parametrize("written", ["e-3", "1e", "resnet1e3x", "'1e-3'"])
def test_text_that_looks_a_little_like_a_number_stays_text(tmp_path: Path, written: str) -> None:
    file = write(tmp_path, f"model:\n  options: {{drop: {written}}}\n")
    assert load_job_file(file).model.options == {"drop": written.strip("'")}


def test_every_broken_rule_is_listed_with_its_line(tmp_path: Path) -> None:
    text = """\
modle: {name: resnet18}
search:
  space:
    lr: [1, 0.1]
    fc_norm: [1, 2, 3]
training:
  epochs: many
  optimizer:
    name: adam
"""
    assert refusal(tmp_path, text) == [
        "7: training.epochs: 'many' does not fit; it should be a valid integer, unable to parse string as an integer",
        "9: training.optimizer.name: 'adam' does not fit; it should be 'sgd' or 'adamw'",
        "4: search.space.lr: [1, 0.1] is empty; low must be below high: swap the two or widen the range",
        "5: search.space.fc_norm: [1, 2, 3] has 3 numbers; a range is a pair: write [low, high]",
        "1: modle: unknown field 'modle'; did you mean 'model'?",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "search:\n  space:\n    lr: [-1, 1]\n",
            "3: search.space.lr: low is -1; it is searched on a log scale: give a low above zero",
        ),
        ("search:\n  space:\n    lr: {low: 1}\n", "3: search.space.lr.high: 'high' is missing: add it"),
        (
            "name: x\n\nbudget:\n  max_trials: 2\n  confirm_runs: 2\n",
            "3: budget: confirm_runs is 2 of max_trials 2, which leaves no trial to search with: "
            "raise max_trials or lower confirm_runs",
        ),
        (
            "training:\n  weight_norm: -1\n",
            "2: training.weight_norm: -1 does not fit; it should be greater than 0 or 'init'",
        ),
        ("data: digits\n", None),
        (
            "training:\n  optimizer: {name: sgd, zzz: 1}\n",
            "2: training.optimizer.zzz: unknown field 'zzz'; the fields here are name, momentum, nesterov",
        ),
        (
            "search:\n  space:\n    lr: [.nan, 1]\n",
            "3: search.space.lr.low: nan does not fit; it should be a finite number",
        ),
    ],
)
def test_a_broken_rule_names_line_field_value_and_rule(tmp_path: Path, text: str, expected: str | None) -> None:
    lines = refusal(tmp_path, text)
    if expected is None:
        assert lines[0].startswith("1: data: 'digits' does not fit; it should be a group of fields: name, path,")
    else:
        assert lines == [expected]


def test_broken_yaml_is_refused_with_line_and_column(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "name: x\nmodel: {name: resnet18\ndata:\n  name: digits\n")
    assert line.startswith("3:5: not valid YAML: ")


def test_a_tab_is_refused_with_its_place(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "model:\n\tname: x\n")
    assert line.startswith("2:1: not valid YAML: ")


def test_a_control_character_is_refused_with_its_line(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "name: x\nseed: \x07\n")
    assert line.startswith("2: not valid YAML: ")


@pytest.mark.parametrize(
    ("text", "line", "key", "first"),
    [("name: a\nseed: 1\nname: b\n", 3, "name", 1), ("data:\n  name: digits\n  name: x\n", 3, "name", 2)],
)
def test_a_key_written_twice_is_refused(tmp_path: Path, text: str, line: int, key: str, first: int) -> None:
    assert refusal(tmp_path, text) == [f"{line}: {key!r} is written twice; it stands in line {first}"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("- name: x\n", "a list"), ("just text\n", "a single value"), ("", "empty"), ("# only this\n", "empty")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, found: str) -> None:
    assert refusal(tmp_path, text) == [f"1: a job file is a mapping of fields; this one is {found}"]


@pytest.mark.parametrize(
    "text",
    ["name: !!python/object/apply:os.getcwd []\n", "a: &x [*x]\n", "name: a\n---\nname: b\n", "seed: 2001-99-99\n"],
)
def test_other_yaml_that_describes_no_job_is_refused(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no file .*nothing\.yaml"):
        load_job_file(tmp_path / "nothing.yaml")


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_job_file(tmp_path)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="byte 0 is not valid UTF-8"):
        load_job_file(file)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("./photos", "{here}/photos"), ("../photos", "{above}/photos"), ("photos", "photos"), ("/data/x", "/data/x")],
)
def test_only_a_path_that_begins_with_dots_starts_at_the_job_file(tmp_path: Path, given: str, expected: str) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    file = write(folder, f"data: {{name: imagefolder, path: {given}}}\n")
    here = folder.resolve()
    assert load_job_file(file).data.path == expected.format(here=here, above=here.parent)


def test_a_job_made_in_python_is_that_of_a_file_and_its_paths_start_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"name": "imagefolder", "path": "./flowers"}
    made = make_job(name="a", data=data, training=TrainingSpec(epochs=5))
    file = write(tmp_path, "name: a\ndata: {name: imagefolder, path: ./flowers}\ntraining: {epochs: 5}\n")
    assert made == load_job_file(file)
    assert data["path"] == "./flowers"


def test_a_job_made_in_python_is_refused_in_a_job_files_words() -> None:
    with pytest.raises(SpecError) as refused:
        make_job(trainig={}, budget={"max_trials": 0})
    assert "trainig: unknown field 'trainig'; did you mean 'training'?" in refused.value.rule.splitlines()
    assert "budget.max_trials: 0 does not fit; it should be greater than or equal to 1" in refused.value.rule
    assert "job-file" in refused.value.way_out
