"""What is printed while a task runs is in its attempt's log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import faulthandler, os, sys
from pathlib import Path
from worker.output import printed_to

faulthandler.enable()
print("before")
with printed_to(Path(sys.argv[1])):
    print("of Python")
    print("a warning", file=sys.stderr)
    os.system("echo of a child")
    if sys.argv[2:]:
        faulthandler._sigsegv()
print("after")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)


def test_prints_of_python_of_c_and_of_children_are_appended_and_nothing_else_is(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("logged\n")
    ended = run(str(log))
    assert sorted(log.read_text().splitlines()) == ["a warning", "logged", "of Python", "of a child"]
    assert ended.stdout.splitlines() == ["before", "after"]
    assert ended.stderr == ""


def test_where_a_crash_of_c_code_happened_is_there_too(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert run(str(log), "crash").returncode < 0
    assert "Fatal Python error: Segmentation fault" in log.read_text()
