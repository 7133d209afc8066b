"""What commands print about a real server's jobs, held word for word against the files in ``snapshots/``.

``FIXNORM_SNAPSHOTS=write`` writes them anew; read the difference before it is committed.
"""

from __future__ import annotations

import difflib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from flaky import flaky
from serving import serving, simulated
from waiting import wait_for

from service.cli.main import app
from service.composition import build
from worker.contracts import FailureKind
from worker.recording import Recording

FOLDER = Path(__file__).parent / "snapshots"

COMMANDS = {
    "list": ["list"],
    "show": ["show", "job-succeeded0"],
    "show-failed": ["show", "job-failed0000"],
    "trials": ["trials", "job-succeeded0"],
    "trials-failed": ["trials", "job-failed0000"],
    "best": ["best", "job-succeeded0"],
    "queue": ["queue"],
    "models": ["models"],
    "datasets": ["datasets"],
    "recipes": ["recipes"],
    "plan": ["submit", "--dry-run", "--model", "small_resnet", "--dataset", "digits", "--epochs", "8", "--trials", "5"],
}
FORMS = ("piped", "json", "80", "120")
CASES = [(name, form) for name in COMMANDS for form in FORMS]

VOLATILE = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?", "<time>"),
    (r"http://127\.0\.0\.1:\d+", "<server>"),
    (r"\b\d\.\d s\b", "0.0 s"),
    (r'"seconds": [\d.e-]+', '"seconds": 0.0'),
)
"""What differs from run to run, and what stands in its place."""


class Output(io.StringIO):
    """Standard output, at a terminal or not."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@dataclass(frozen=True)
class Place:
    """A server, and its jobs' ids by the names that stand for them."""

    url: str
    folder: Path
    jobs: dict[str, str]

    def stable(self, text: str) -> str:
        """Without what differs from run to run, and with four digits of what was computed."""
        for name, job_id in self.jobs.items():
            text = text.replace(job_id, name)
        text = text.replace(str(self.folder), "<folder>")
        for pattern, instead in VOLATILE:
            text = re.sub(pattern, instead, text)
        text = re.sub(r"\b\d\.\d{5,}(e-?\d+)?\b", lambda found: f"{float(found[0]):.4g}", text)
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server whose first job has failed and whose second has succeeded."""
    folder = tmp_path_factory.mktemp("snapshots")
    settings = simulated(folder, database_url=f"sqlite:///{folder / 'fixnorm.db'}")
    spec = Recording.packaged().job.model_dump(mode="json")
    spec["search"] |= {"sampler": "random"}
    budget = {"max_trials": 5, "confirm_runs": 2, "parallel_trials": 1, "max_failures": 2}
    with (
        serving(build(settings, backend=flaky(2, FailureKind.CRASHED)).app) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        jobs: dict[str, str] = {}
        for name in ("job-failed0000", "job-succeeded0"):
            given: dict[str, Any] = spec | {"name": name.strip("0").removeprefix("job-"), "budget": budget}
            jobs[name] = str(client.post("/api/v1/jobs", json=given).raise_for_status().json()["id"])
            assert len(jobs[name]) == len(name)  # or tables would have other widths
            wait_for(client, jobs[name])
        yield Place(url, folder, jobs)


def printed(place: Place, command: list[str], form: str, patched: pytest.MonkeyPatch) -> str:
    """What a command writes into a pipe, as JSON, or to a terminal of so many columns."""
    arguments = [place.jobs.get(word, word) for word in command] + (["-o", "json"] if form == "json" else [])
    output = Output(is_terminal=form.isdecimal())
    for name, value in {"FIXNORM_SERVER": place.url, "NO_COLOR": "1", "TERM": "xterm", "TZ": "UTC"}.items():
        patched.setenv(name, value)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FIXNORM_TOKEN"):
        patched.delenv(name, raising=False)
    patched.setenv("COLUMNS", form if form.isdecimal() else "80")
    patched.setenv("XDG_CONFIG_HOME", str(place.folder))
    patched.setattr("sys.stdout", output)
    app(arguments, standalone_mode=False)
    patched.undo()
    return place.stable(output.getvalue())


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_command_prints_what_it_printed(name: str, form: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = printed(place, COMMANDS[name], form, monkeypatch)
    file = FOLDER / f"{name}.{form}.txt"
    if os.environ.get("FIXNORM_SNAPSHOTS") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(now, encoding="utf-8")
    before = file.read_text(encoding="utf-8")
    assert now, "it printed nothing"
    difference = difflib.unified_diff(before.splitlines(), now.splitlines(), str(file), "now", lineterm="")
    assert now == before, "\n".join(difference)


def test_every_snapshot_is_of_a_command() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {f"{name}.{form}.txt" for name, form in CASES}
