from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

SLOW = ("pydantic", "yaml", "httpx", "rich")
HEAVY = ("torch", "ray", "sqlalchemy", "fastapi", "optuna", "numpy")


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env={**os.environ}
    )


@pytest.mark.parametrize(
    "modules",
    [
        "service.cli.main",
        "service.client",
        "fixnorm_core.jobfile",
        "fixnorm_core.recipes",
        "service.cli.follow, service.cli.tables",
    ],
)
def test_client_and_command_line_import_nothing_heavy(modules: str) -> None:
    done = run(f"import sys, {modules}; print([name for name in {HEAVY} if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["list", "--server", "http://127.0.0.1:9"], 3),
        (["submit", "--recipe", "digits", "--server", "http://127.0.0.1:9"], 3),
        (["recipes", "-o", "json"], 0),
    ],
    ids=["list", "submit", "recipes"],
)
def test_a_command_that_runs_imports_nothing_heavy(command: list[str], code: int) -> None:
    program = (
        "import sys\nfrom service.cli.main import main\n"
        f"try:\n    main()\nfinally:\n    print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = run(program, *command)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["submit", "--help"], ["token", "create", "--help"]], ids=" ".join)
def test_help_loads_no_models_of_data(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom service.cli.main import main\n"
        f"try:\n    main()\nfinally:\n    print([name for name in {SLOW} if name in sys.modules])"
    )
    assert run(program, *arguments).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["submit", "--help"]], ids=" ".join)
def test_help_answers_in_under_three_tenths_of_a_second(arguments: list[str]) -> None:
    # Processor time: on a busy machine wall time says nothing of the program.
    def seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    best = float("inf")
    for _ in range(3):
        before = seconds()
        assert run("from service.cli.main import main; main()", *arguments).returncode == 0
        best = min(best, seconds() - before)
    assert best < 0.3


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    done = run("from service.cli.main import main; main()", "--version")
    assert done.stdout == f"fixnorm-tune {version('fixnorm-tune')}\n"
