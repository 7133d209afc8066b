"""What commands print about a real server's jobs, held word for word against the files in ``snapshots/``.

``FIXNORM_SNAPSHOTS=write`` writes them anew; read the difference before it is committed.
"""

from __future__ import annotations

import difflib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_tree import LEAVES
from counted import count_classes
from stage import Stage, stage

from service.access.scopes import Scope
from service.administration import create_token, revoke_tokens
from service.cli.main import app
from service.settings import Settings

FOLDER = Path(__file__).parent / "snapshots"
EVERY_FORM = ("piped", "json", "80", "120")

LOOKS = {
    "list": ["list"],
    "show": ["show", "job-succeeded0"],
    "show-failed": ["show", "job-failed0000"],
    "show-running": ["show", "job-running000"],
    "show-waiting": ["show", "job-waiting000"],
    "show-paused": ["show", "job-paused0000"],
    "show-extended": ["show", "job-extended00"],
    "trials": ["trials", "job-succeeded0"],
    "trials-failed": ["trials", "job-failed0000"],
    "trials-running": ["trials", "job-running000"],
    "best": ["best", "job-succeeded0"],
    "best-running": ["best", "job-running000"],
    "queue": ["queue"],
    "models": ["models"],
    "datasets": ["datasets"],
    "recipes": ["recipes"],
    "recipe": ["recipes", "digits"],
    "plan": ["submit", "--dry-run", "--model", "small_resnet", "--dataset", "digits", "--epochs", "8", "--trials", "5"],
    "summary": ["summary", "job-succeeded0"],
    "classes": ["classes", "job-succeeded0"],
    "classes-running": ["classes", "job-running000"],
    "report": ["report", "job-succeeded0"],
    "report-file": ["report", "job-succeeded0", "-o", "report.html"],
    "export": ["export", "job-succeeded0", "exported"],
    "logs": ["logs", "job-succeeded0", "4"],
    "watch": ["watch", "job-succeeded0"],
    "watch-failed": ["watch", "job-failed0000"],
    "prune": ["prune", "--logs-days", "0", "--jobs-days", "0", "--dry-run"],
    "doctor": ["doctor"],
    "token-list": ["token", "list"],
}
"""Commands that change nothing, on one server whose jobs are in every state."""

FRESH = "job-fresh00000"


def waiting(stage: Stage) -> None:
    stage.put(FRESH)


def running(stage: Stage) -> None:
    stage.put(FRESH)
    stage.move(epochs=0)


def paused(stage: Stage) -> None:
    running(stage)
    stage.client.pause(stage.jobs[FRESH])


def ended(stage: Stage) -> None:
    stage.run(stage.put(FRESH, max_trials=1, confirm_runs=0))


def failed(stage: Stage) -> None:
    stage.backend.losses = 1
    stage.run(stage.put(FRESH, max_failures=1))


def has_a_token(stage: Stage) -> None:
    create_token(Settings(), "bob", Scope.SUBMIT, lifetime=None)


def nothing(stage: Stage) -> None:
    del stage


DEEDS: dict[str, tuple[Callable[[Stage], None], list[str]]] = {
    "submit": (nothing, ["submit", "--model", "small_resnet", "--dataset", "digits"]),
    "pause": (running, ["pause", FRESH]),
    "resume": (paused, ["resume", FRESH]),
    "stop": (running, ["stop", FRESH]),
    "cancel": (running, ["cancel", FRESH]),
    "extend": (ended, ["extend", FRESH, "--trials", "5"]),
    "retry": (failed, ["retry", FRESH, "--failed"]),
    "update": (waiting, ["update", FRESH, "--weight", "2", "--max-gpus", "none", "--parallel-trials", "3"]),
    "release": (nothing, ["release", "simulator"]),
    "prune-nothing": (nothing, ["prune"]),
    "token-create": (nothing, ["token", "create", "ann", "--days", "90"]),
    "token-revoke": (has_a_token, ["token", "revoke", "bob"]),
    "database-upgrade": (nothing, ["database", "upgrade"]),
    "logout": (nothing, ["logout"]),
}
"""What each changes, it changes on a server of its own, of what is there before it."""

FORMS = {
    "summary": ("piped",),
    "logs": ("piped",),
    "report": ("piped",),
    "watch": ("piped", "json"),
    "watch-failed": ("piped", "json"),
} | dict.fromkeys(DEEDS, ("piped", "json"))
"""Where not all: what has one form, and what is a line or two whatever the width."""

WITHOUT = {
    "serve": "test_cli_end_to_end.py",
    "login": "test_cli_tokens.py: it asks a person",
}
"""Commands without a snapshot, and where else they are looked at."""


class Output(io.StringIO):
    """Standard output, at a terminal or not."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server with jobs in every state, none of which moves."""
    with stage(tmp_path_factory.mktemp("shown")) as made:
        made.backend.losses = 2
        made.run(made.put("job-failed0000"))
        made.run(made.put("job-succeeded0"))
        with made.service.runtime.database.write.begin() as session:
            count_classes(session, made.jobs["job-succeeded0"])
        made.log(made.jobs["job-succeeded0"], 4, "epoch 1 of 8: validation accuracy 0.4206\n")
        extended = made.put("job-extended00")
        made.run(extended)
        made.put("job-running000", parallel_trials=2, max_trials=8)
        made.move(epochs=11)
        paused = made.put("job-paused0000")
        made.move(epochs=1)
        made.client.pause(paused)
        made.client.extend(extended, 2)
        made.move(epochs=2)
        made.put("job-waiting000", cpus=4.0, share={"user": "ann", "weight": 2.0, "priority": 1})
        made.move(epochs=0)
        settings = Settings(state_dir=made.folder / "state", database_url=made.service.runtime.settings.database_url)
        for name, scope in (("ann", Scope.SUBMIT), ("nightly-ci", Scope.READ), ("ann", Scope.ADMIN)):
            create_token(settings, name, scope, lifetime=None)
        revoke_tokens(settings, "nightly-ci")
        yield made


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server for what changes something."""
    with stage(tmp_path_factory.mktemp("changed")) as made:
        yield made


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a person whose machine has room."""
    for name, value in {"NO_COLOR": "1", "TERM": "xterm", "TZ": "UTC"}.items():
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FIXNORM_TOKEN", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**39, 2**39))
    return monkeypatch


def belongs_to(place: Stage, patched: pytest.MonkeyPatch) -> None:
    """Commands look there for a server, its database and its files."""
    patched.setenv("FIXNORM_SERVER", place.url)
    patched.chdir(place.folder)  # where it lies is a matter of the machine
    patched.setenv("FIXNORM_DATABASE_URL", "sqlite:///fixnorm.db")
    patched.setenv("FIXNORM_STATE_DIR", "state")
    patched.setenv("XDG_CONFIG_HOME", str(place.folder))


def printed(place: Stage, command: list[str], form: str, patched: pytest.MonkeyPatch) -> str:
    """What a command writes into a pipe, as JSON, or to a terminal of so many columns; and on standard error."""
    words = [place.jobs.get(word, word) for word in command]
    output, errors = Output(is_terminal=form.isdecimal()), Output(is_terminal=False)
    patched.setenv("COLUMNS", form if form.isdecimal() else "80")
    patched.setattr("sys.stdout", output)
    patched.setattr("sys.stderr", errors)
    app([*words, *(["--output", "json"] if form == "json" else [])], standalone_mode=False)
    text = output.getvalue()
    if errors.getvalue():
        text += f"\n--- on standard error ---\n{errors.getvalue()}"
    return place.stable(text)


def assert_as_before(now: str, name: str, form: str) -> None:
    """Holds it against what was printed before."""
    file = FOLDER / f"{name}.{form}.txt"
    if os.environ.get("FIXNORM_SNAPSHOTS") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(now, encoding="utf-8")
    before = file.read_text(encoding="utf-8")
    assert now, "it printed nothing"
    difference = difflib.unified_diff(before.splitlines(), now.splitlines(), str(file), "now", lineterm="")
    assert now == before, "\n".join(difference)


def cases(commands: dict[str, object]) -> list[tuple[str, str]]:
    return [(name, form) for name in commands for form in FORMS.get(name, EVERY_FORM)]


@pytest.mark.parametrize(("name", "form"), cases(LOOKS))
def test_a_command_prints_what_it_printed(name: str, form: str, shown: Stage, here: pytest.MonkeyPatch) -> None:
    belongs_to(shown, here)
    assert_as_before(printed(shown, LOOKS[name], form, here), name, form)


@pytest.mark.parametrize(("name", "form"), cases(DEEDS))
def test_what_a_command_has_done_is_told_as_it_was(
    name: str, form: str, changed: Stage, here: pytest.MonkeyPatch
) -> None:
    belongs_to(changed, here)
    prepare, command = DEEDS[name]
    prepare(changed)
    now = printed(changed, command, form, here)
    for job in changed.client.jobs():
        now = now.replace(job.id, FRESH)
        changed.client.cancel(job.id)
    changed.move(epochs=0)
    assert_as_before(now, name, form)


def test_every_snapshot_is_of_a_command_and_every_command_has_one() -> None:
    wanted = {f"{name}.{form}.txt" for name, form in cases(LOOKS) + cases(DEEDS)}
    assert {file.name for file in FOLDER.iterdir()} == wanted
    commands = [*LOOKS.values(), *(command for _, command in DEEDS.values())]
    told = {name for name in LEAVES if any(words[: len(name.split())] == name.split() for words in commands)}
    assert told | WITHOUT.keys() == LEAVES.keys()
    assert not told & WITHOUT.keys()
