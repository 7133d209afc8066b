"""The examples run, as a user would run them, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from processes import running_server

from service.client import Client
from service.schemas import JobState

ROOT = Path(__file__).parents[2]

# Runs the cells of a notebook one after the other in one namespace; a cell may await at its top, as in Jupyter.
RUN_CELLS = """
import ast, asyncio, inspect, sys
import nbformat

notebook = nbformat.read(sys.argv[1], as_version=4)
names = {"__name__": "__main__"}

async def run():
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            code = compile(cell.source, f"cell {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            came = eval(code, names)
            if inspect.iscoroutine(came):
                await came

asyncio.run(run())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server"), epoch_seconds=0) as url:
        yield url


def run(*command: str, server: str) -> str:
    environment = os.environ | {"FIXNORM_SERVER": server, "PYTHONWARNINGS": "error", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT / "examples", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script_submits_follows_and_prints_the_result(server: str) -> None:
    said = run("client.py", server=server).splitlines()
    assert said[0].endswith("shows it")
    assert sum(": COMPLETE, accuracy 0.9" in line for line in said) >= 4
    assert any(line.startswith("SUCCEEDED: ") for line in said)
    assert said[-1].startswith("{'lr': ")


def test_the_script_says_what_to_do_when_there_is_no_server() -> None:
    environment = os.environ | {"FIXNORM_SERVER": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "client.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Start one with 'fixnorm-tune serve'" in done.stderr


def test_the_notebook_is_a_notebook_without_outputs_and_every_cell_runs(server: str) -> None:
    path = ROOT / "examples" / "client.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []
    said = run("-c", RUN_CELLS, str(path), server=server)
    assert "404 not_found" in said
    assert said.count("SUCCEEDED") == 3


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its trials end only when they are told to."""
    with running_server(tmp_path_factory.mktemp("slow"), epoch_seconds=600) as url:
        yield url


def test_the_examples_tell_of_jobs_that_end_without_a_complete_trial(slow_server: str) -> None:
    over = threading.Event()

    def cancel_what_trains() -> None:
        with Client(slow_server) as client:
            while not over.wait(0.05):
                for job in client.jobs(state=JobState.RUNNING):
                    if job.progress.running:
                        client.cancel(job.id)

    canceller = threading.Thread(target=cancel_what_trains)
    canceller.start()
    try:
        said = run("-c", RUN_CELLS, str(ROOT / "examples" / "client.ipynb"), server=slow_server)
        script = run("client.py", server=slow_server)
    finally:
        over.set()
        canceller.join()
    assert said.count("CANCELLED") >= 3
    assert "trial 0: " in said
    assert "None" not in said
    assert "CANCELLED: " in script
    assert "trial 0: CANCELLED, " in script
    assert "None" not in script


def test_the_notebook_goes_on_when_it_has_waited_long_enough(slow_server: str, tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "examples" / "client.ipynb").read_text(encoding="utf-8"))
    text = json.dumps(notebook["cells"])
    assert text.count("timedelta(minutes=30)") == 1
    cells = json.loads(text.replace("timedelta(minutes=30)", "timedelta(0)"))
    # Neither the events nor the jobs of the last part: they come to an end with the job alone
    long = ("job.events()", "AsyncClient()")
    notebook["cells"] = [cell for cell in cells if not any(call in "".join(cell["source"]) for call in long)]
    assert len(cells) - len(notebook["cells"]) == 2
    file = tmp_path / "waits.ipynb"
    file.write_text(json.dumps(notebook), encoding="utf-8")
    said = run("-c", RUN_CELLS, str(file), server=slow_server)
    assert "after 0 s" in said
    assert "404 not_found" in said
    with Client(slow_server) as client:
        for job in client.jobs():
            client.cancel(job.id)
