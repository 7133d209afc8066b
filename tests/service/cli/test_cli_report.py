from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from standin import Answer, StandIn
from typer.testing import Result

PATH = "/api/v1/jobs/j1/report"


@pytest.mark.parametrize(
    ("name", "form"), [("report.html", "html"), ("new/folder/page", "html"), ("report.md", "markdown")]
)
def test_a_report_is_written_in_the_form_that_the_files_name_asks_for(
    server: StandIn, cli: Callable[..., Result], tmp_path: Path, name: str, form: str
) -> None:
    server.on("GET", PATH, Answer("± a report\n".encode(), content_type=f"text/{form}; charset=utf-8"))
    file = tmp_path / name
    result = cli("report", "j1", "-o", file)
    assert (result.exit_code, result.stdout) == (0, f"{file}\n")
    assert file.read_text(encoding="utf-8") == "± a report\n"
    assert [request.query["format"] for request in server.sent("GET", PATH)] == [[form]]
    assert list(file.parent.iterdir()) == [file]


def test_a_program_is_told_the_file_or_given_the_text(
    server: StandIn, cli: Callable[..., Result], tmp_path: Path
) -> None:
    server.on("GET", PATH, Answer("± a report\n".encode(), content_type="text/markdown; charset=utf-8"))
    file = tmp_path / "report.md"
    told = {"job": "j1", "format": "markdown"}
    written = cli("report", "j1", "-o", file, "--output", "json").stdout
    assert json.loads(written) == told | {"file": str(file), "text": None}
    assert file.read_text(encoding="utf-8") == "± a report\n"
    assert json.loads(cli("report", "j1", "--output", "json").stdout) == told | {"file": None, "text": "± a report\n"}


def test_a_form_in_the_files_place_is_refused_with_what_was_meant(cli: Callable[..., Result]) -> None:
    result = cli("report", "j1", "-o", "json")
    assert result.exit_code == 2
    assert result.stderr.endswith("or say --output json\n")


def test_a_report_that_there_is_not_leaves_the_file_as_it_was(
    server: StandIn, cli: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text("of before")
    assert cli("report", "j9", "-o", file).exit_code == 4
    assert file.read_text() == "of before"
