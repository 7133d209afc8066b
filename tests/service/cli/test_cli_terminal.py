"""What a person at a terminal gets: Tab's offers, colors, and none of them where they are not wanted."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from standin import StandIn, job

from fixnorm_core.recipes import list_recipes
from service.schemas import JobPage, JobState

UNUSUAL = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FIXNORM_TOKEN", "COLUMNS")
ROOT = Path(__file__).parents[3]


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in UNUSUAL}
    return (
        kept | {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path / "config"), "TERM": "xterm-256color"} | more
    )


def offers(line: str, tmp_path: Path, **more: str) -> list[str]:
    """What Tab offers at the end of a line, in bash's protocol."""
    program = tmp_path / "bin" / "fixnorm-tune"  # its name is that of the variable
    program.parent.mkdir(exist_ok=True)
    program.write_text("from service.cli.main import main\nmain()\n")
    asked = {
        "_FIXNORM_TUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - (not line.endswith(" "))),
    }
    done = subprocess.run(
        [sys.executable, str(program)], env=environment(tmp_path, **asked, **more), capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("fixnorm-tune ext", ["extend"]),
        ("fixnorm-tune submit --model small", ["small_resnet"]),
        ("fixnorm-tune submit --dataset cifar", ["cifar10", "cifar100"]),
        ("fixnorm-tune submit --recipe ", [recipe.name for recipe in list_recipes()]),
        ("fixnorm-tune submit --recipe nothing", []),
    ],
)
def test_tab_offers_commands_and_names(line: str, wanted: list[str], tmp_path: Path) -> None:
    assert sorted(offers(line, tmp_path)) == sorted(wanted)


def test_tab_offers_the_servers_jobs_and_says_nothing_where_no_server_answers(server: StandIn, tmp_path: Path) -> None:
    found = tuple(job(id=name) for name in ("job-25e1df92fd", "job-25aaaaaaaa", "job-73a88dfd2a"))
    server.on("GET", "/api/v1/jobs", JobPage(jobs=found, next_cursor=None))
    line = "fixnorm-tune show job-25"
    assert sorted(offers(line, tmp_path, FIXNORM_SERVER=server.url)) == ["job-25aaaaaaaa", "job-25e1df92fd"]
    assert offers(f"fixnorm-tune show --server {server.url} job-7", tmp_path) == ["job-73a88dfd2a"]
    server.stop()
    assert offers(line, tmp_path, FIXNORM_SERVER=server.url) == []


def drawn(server: StandIn, **more: str) -> str:
    """What ``list`` writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "service.cli.main", "list"]
    written = b""
    with subprocess.Popen(command, stdout=theirs, env=more, stderr=subprocess.PIPE) as run:
        os.close(theirs)
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # Linux's way to say that the other end is closed
            pass
        finally:
            os.close(ours)
    assert run.returncode == 0
    return written.decode()


def test_a_terminals_table_has_colors_unless_no_color_is_set(server: StandIn, tmp_path: Path) -> None:
    jobs = (job(), job(JobState.FAILED, id="j2"))
    server.on("GET", "/api/v1/jobs", JobPage(jobs=jobs, next_cursor=None))
    usual = environment(tmp_path, FIXNORM_SERVER=server.url)
    for colored in (drawn(server, **usual), drawn(server, **usual, NO_COLOR="")):
        assert "\x1b[31mFAILED" in colored
        assert "\x1b[1m" in colored
    plain = drawn(server, **usual, NO_COLOR="1")
    assert "FAILED" in plain
    assert "\x1b" not in plain
