"""The commands that the pages show are typed, by a shell, one after the other, on servers started as the pages say."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from counted import count_classes_in
from PIL import Image
from shown import blocks
from terminal import Terminal

from fixnorm_core.spec import JobSpec
from service.client import Client
from service.client.handles import Job
from service.jobs.folders import trial_folder
from service.schemas import JobState
from worker.contracts import log_path
from worker.recording import Recording

ROOT = Path(__file__).parents[2]
OF_AN_ENDED_JOB = {"watch", "trials", "best", "classes", "summary", "show", "report", "export", "logs", "submit"}


def lines(page: str) -> list[str]:
    """What a page's plain blocks show, as far as it is typed here: our own command and what prepares it."""
    every = [line.removeprefix("$ ") for block in blocks(ROOT / page, "") for line in block.splitlines()]
    return [line for line in every if re.match(r"((\w+=\S+ )*fixnorm-tune |export |curl )", line)]


def job(**budget: Any) -> JobSpec:
    spec = Recording.packaged().job.model_dump(mode="json")
    return JobSpec.model_validate(spec | {"budget": {"confirm_runs": 0, "stop_early": False} | budget})


def without_comment(line: str) -> str:
    return re.sub(r"\s+#.*", "", line)


class Reader:
    """Types a page's lines, with jobs for ``JOB`` that are in a state where the line makes sense."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.said: dict[str, str] = {}

    def type(self, line: str) -> None:
        if "NODE" in line:
            return  # its test is that of the commands' examples: an administrator's
        if "JOB" not in without_comment(line):
            self.said[without_comment(line)] = self.terminal.type(line)
            return
        environment = self.terminal.environment
        with Client(environment["FIXNORM_SERVER"], token=environment.get("FIXNORM_TOKEN")) as client:
            verb = line.split()[line.split().index("fixnorm-tune") + 1] if "fixnorm-tune" in line else "watch"
            chosen = self._job(client, verb)
            self.said[without_comment(line)] = self.terminal.type(line.replace("JOB", chosen.id))
            state = chosen.refresh().state
            assert state in STATES.get(verb, set(JobState)), (line, state)
            if state not in (JobState.SUCCEEDED, JobState.CANCELLED):
                chosen.cancel()

    def _job(self, client: Client, verb: str) -> Job:
        if verb in OF_AN_ENDED_JOB:
            ended = client.submit(job(max_trials=5))
            assert ended.wait().state is JobState.SUCCEEDED
            count_classes_in(self.terminal.folder / "fixnorm-state", ended.id)
            log = log_path(trial_folder(self.terminal.folder / "fixnorm-state", ended.id, 4), f"{ended.id}.4.1")
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("epoch 1 of 8\n")  # the simulator trains nothing, so it logs nothing
            return ended
        running = client.submit(job(max_trials=100_000))
        deadline = time.monotonic() + 120
        while running.refresh().progress.finished < 5:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if verb == "resume":
            running.pause()
        return running


STATES = {
    "watch": {JobState.SUCCEEDED},
    "pause": {JobState.PAUSED},
    "resume": {JobState.QUEUED, JobState.RUNNING},
    "stop": {JobState.STOPPING, JobState.SUCCEEDED},
    "cancel": {JobState.CANCELLED, JobState.RUNNING},  # within a moment
}
"""Where a job is after a verb."""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path, FIXNORM_EPOCH_SECONDS="0.01", FIXNORM_GPUS="8", FIXNORM_CPUS="8", HOME=str(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def reader(terminal: Terminal) -> Reader:
    return Reader(terminal)


def classes_in(folder: Path, *names: str) -> None:
    """A folder of small pictures for each class."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (40, 40), (index, 0, 0)).save(folder / name / f"{index:04}.jpg")


def test_all_commands_of_the_quickstart(reader: Reader, tmp_path: Path) -> None:
    for split in ("train", "test"):
        classes_in(tmp_path / "fixnorm-state" / "data" / "cifar10" / split, *"abcdefghij")
    shown = lines("docs/quickstart.md")
    assert len(shown) >= 24
    for line in shown:
        line = line.replace("http://127.0.0.1:8780", reader.terminal.environment.get("FIXNORM_SERVER", ""))
        if line.startswith("curl"):
            line = line.replace("curl -N", "curl -N --silent --show-error --max-time 20")
        if "postgresql://user" in line:
            continue  # below, with a cluster's commands
        if "learned.json" in line:
            ended = next(id_ for id_ in re.findall(r"job-\w+", " ".join(reader.terminal.typed)))
            (tmp_path / "learned.json").write_text(reader.said["fixnorm-tune summary JOB"], encoding="utf-8")
            line = line.replace("job-73a88dfd2a", ended)
        reader.type(line)
    said = reader.said
    assert yaml.safe_load((tmp_path / "my-job.yaml").read_text("utf-8"))["data"]["name"] == "digits"
    assert "SUCCEEDED" in said["fixnorm-tune list"]
    assert len(json.loads(said["fixnorm-tune trials JOB --output json"])) == 5
    assert said["fixnorm-tune logs JOB 4 --follow"] == "epoch 1 of 8\n"
    assert any("event: trial.epoch" in text for line, text in said.items() if line.startswith("curl"))


def test_the_commands_of_operations(reader: Reader) -> None:
    shown = lines("docs/operations.md")
    assert len(shown) >= 7
    for line in shown:
        reader.type(line)
        if "token create" in line:
            reader.terminal.environment["FIXNORM_TOKEN"] = reader.said[without_comment(line)].strip()
    assert "nothing to remove" in reader.said[shown[-1]]
    assert httpx.get(f"{reader.terminal.environment['FIXNORM_SERVER']}/api/v1/jobs").status_code == 401


@pytest.mark.parametrize("page", ["docs/how-to/cluster.md", "docs/how-to/bucket.md", "docs/trackers.md"])
def test_servers_start_as_their_pages_say(page: str, reader: Reader, tmp_path: Path, postgres_url: str) -> None:
    (tmp_path / "shared" / "images").mkdir(parents=True)
    shown = lines(page)
    assert any(" serve" in line for line in shown)
    for line in shown:
        line = line.replace("RAY_ADDRESS=HOST:PORT ", "").replace("/shared", str(tmp_path / "shared"))
        reader.type(line.replace("postgresql://user:password@host/fixnorm", postgres_url))
        if "token create" in line:
            reader.terminal.environment["FIXNORM_TOKEN"] = next(reversed(reader.said.values())).strip()


def test_the_commands_of_the_recipes(reader: Reader, tmp_path: Path) -> None:
    for split in ("train", "val"):
        classes_in(tmp_path / "images" / "imagenet" / split, "daisy", "tulip")
    reader.terminal.type(f"FIXNORM_ALLOWED_DATA_ROOTS={tmp_path / 'images'} fixnorm-tune serve")
    for line in lines("docs/recipes.md"):
        reader.type(line.replace("/data/imagenet", str(tmp_path / "images" / "imagenet")))
    with Client(reader.terminal.environment["FIXNORM_SERVER"]) as client:
        large, small = client.jobs()
    assert (small.spec.data.name, small.state) == ("digits", JobState.SUCCEEDED)
    assert large.spec.data.path == str(tmp_path / "images" / "imagenet")
    assert large.spec.budget.parallel_trials == 4


def test_models_of_ones_own_are_submitted_as_the_page_says(reader: Reader, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "own", tmp_path / "examples" / "own")
    for line in lines("docs/own-model.md"):
        reader.type(line)
    with Client(reader.terminal.environment["FIXNORM_SERVER"]) as client:
        sent, named = client.jobs()
    assert (named.spec.model.name, named.state) == ("my_models:build", JobState.SUCCEEDED)
    assert sent.spec.model.name.startswith("code@")
    assert sent.state is JobState.SUCCEEDED
