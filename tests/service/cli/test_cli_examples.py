"""The example that each command's help shows is run, by a shell, against a real server."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_tree import COMMAND, EXAMPLES
from counted import count_classes_in
from processes import ServerProcess
from terminal import environment_with_program

from fixnorm_core.spec import JobSpec, ShareSpec
from service.client import Client, Job
from service.jobs.folders import trial_folder
from service.schemas import JobState
from worker.contracts import log_path
from worker.recording import Recording

JOB_ID = re.compile(r"\bjob-[0-9a-f]{10}\b")
"""As the server makes them; ``place`` holds it to that."""

ENDED = {"show", "trials", "best", "classes", "summary", "report", "export", "logs", "watch"}


def ids_in(line: str) -> Iterator[str]:
    """What stands in an example where a command takes a job's id."""
    for part in line.removeprefix("Example: ").split(" && "):
        words = shlex.split(part.partition(" > ")[0])
        words = words[words.index("fixnorm-tune") + 1 :]
        command = COMMAND.commands[words[0]]
        given = {} if hasattr(command, "commands") else command.make_context(words[0], words[1:]).params
        yield from (given["job_id"],) if "job_id" in given else given.get("job_ids", ())


@dataclass
class Place:
    """Where an example is run.

    Attributes:
        ended: Ids of jobs that have ended.
    """

    url: str
    state_dir: Path
    ended: tuple[str, str]
    environment: dict[str, str]

    def run(self, line: str, *, folder: Path, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", line]
        environment = self.environment | more
        return subprocess.run(command, cwd=folder, env=environment, input=given, capture_output=True, text=True)


def job(**budget: Any) -> JobSpec:
    spec = Recording.packaged().job.model_dump(mode="json")
    return JobSpec.model_validate(spec | {"budget": {"confirm_runs": 0, "stop_early": False} | budget})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("examples")
    server = ServerProcess("server", folder, state_dir=folder / "state", epoch_seconds=0.02)
    server.start()
    server.wait()
    environment = environment_with_program(folder) | {
        "FIXNORM_SERVER": server.url,
        "FIXNORM_STATE_DIR": str(folder / "state"),
    }
    with Client(server.url) as client:
        first, second = (client.submit(job(max_trials=5)).wait() for _ in range(2))
    assert JOB_ID.fullmatch(first.id)
    assert JOB_ID.fullmatch(second.id)
    count_classes_in(folder / "state", first.id)  # nor looks at images
    log = log_path(trial_folder(folder / "state", first.id, 4), f"{first.id}.4.1")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("epoch 1 of 8\n")  # the simulator trains nothing, so it logs nothing
    yield Place(server.url, folder / "state", (first.id, second.id), environment)
    server.stop()


def test_every_command_has_an_example() -> None:
    for name, epilog in EXAMPLES.items():
        assert re.match(rf"Example: (\w+=\S+ )*fixnorm-tune {name}\b", epilog), name


def test_every_id_in_an_example_has_the_form_of_the_servers() -> None:
    shown = {name: list(ids_in(line)) for name, line in EXAMPLES.items()}
    assert sum(len(ids) for ids in shown.values()) >= 17
    for name in ENDED | AFTER.keys():
        assert shown[name], name
    for name, ids in shown.items():
        assert all(JOB_ID.fullmatch(each) for each in ids), (name, ids)


MANY = 100_000

AFTER: dict[str, Callable[[Job], bool]] = {
    "pause": lambda job: job.refresh().state is JobState.PAUSED,
    "resume": lambda job: job.refresh().state in {JobState.QUEUED, JobState.RUNNING},
    "stop": lambda job: job.refresh().state is JobState.SUCCEEDED,  # its example watches it end
    "cancel": lambda job: job.wait().state is JobState.CANCELLED,
    "extend": lambda job: job.refresh().progress.max_trials == MANY + 5,
    "update": lambda job: (job.refresh().spec.share.weight, job.refresh().spec.share.max_gpus) == (2.0, None),
    "retry": lambda job: [each.params for each in job.trials()[1:]] == [job.trials()[0].params],
}
"""What is so after the example of a verb."""


def prepare(name: str, client: Client) -> Job:
    """A job that a verb has something to do with: one that runs, is paused, has a cap, has failed."""
    if name == "retry":  # the simulator has no such curves
        failing = job(max_trials=5, max_failures=1).model_dump(mode="json")
        failed = client.submit(JobSpec.model_validate(failing | {"search": {"method": "weight_decay"}})).wait()
        assert (failed.state, failed.progress.failed) == (JobState.FAILED, 1)
        return client.attach(failed.id)
    made = client.submit(job(max_trials=MANY).model_copy(update={"share": ShareSpec(max_gpus=1.0)}))
    while made.refresh().progress.finished == 0:
        time.sleep(0.05)
    if name == "resume":
        assert made.pause().state is JobState.PAUSED
    return made


ELSEWHERE = {"serve", "login", "logout", "token create", "token list", "token revoke"}
"""Examples with a test of their own below."""


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in ELSEWHERE])
def test_the_example_of_a_command_does_what_it_says(
    name: str, place: Place, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    line = EXAMPLES[name].removeprefix("Example: ")
    if "postgresql://..." in line:
        line = line.replace("postgresql://...", request.getfixturevalue("postgres_url"))
    with Client(place.url) as client:
        changed = prepare(name, client) if JOB_ID.search(line) and name not in ENDED else None
        shown = list(dict.fromkeys(JOB_ID.findall(line)))
        real = dict(zip(shown, (changed.id,) if changed else place.ended, strict=False))
        line = JOB_ID.sub(lambda found: real[found[0]], line)
        line = line.replace("10.0.0.7", client.nodes()[0].name)
        done = place.run(line, folder=tmp_path)
        if changed is not None:
            is_so = done.returncode == 0 and AFTER[name](changed)
            changed.cancel()
            assert is_so, (done.stdout, done.stderr, changed.view)
    wanted = (0, 1) if name == "doctor" else (0,)  # a machine may lack something; that is what it is asked for
    assert done.returncode in wanted, (line, done.stdout, done.stderr)
    if target := re.search(r"(?:> |-o )(\S+\.\w+)$|export \S+ (\S+)$", line):
        made = tmp_path / (target[1] or target[2])
        assert made.exists()
        assert made.is_dir() or made.stat().st_size > 0
    else:
        assert done.stdout


def test_a_server_is_started_and_tokens_are_made_used_and_revoked_as_the_examples_say(
    place: Place, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    options = f" --port 0 --backend simulator --url-file {tmp_path / 'url'}"
    serve = EXAMPLES["serve"].removeprefix("Example: ").replace("/data/images", str(images)) + options
    state = str(tmp_path / "fixnorm-state")
    process = subprocess.Popen(
        ["sh", "-c", f"exec {serve}"],
        cwd=tmp_path,
        env=place.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        while not (tmp_path / "url").exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        url = (tmp_path / "url").read_text().strip()

        more = {"FIXNORM_SERVER": url, "XDG_CONFIG_HOME": str(tmp_path / "config")}

        def run(name: str, given: str = "") -> str:
            line = EXAMPLES[name].removeprefix("Example: ").replace("https://tune.example.org", url)
            done = place.run(line, folder=tmp_path, given=given, FIXNORM_STATE_DIR=state, **more)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            return done.stdout

        token = re.findall(r"\S{30,}", run("token create"))[0]
        before = run("token list")
        assert '"ann"' in before
        run("login", given=f"{token}\n")
        assert token in (tmp_path / "config" / "fixnorm-tune" / "tokens.json").read_text()
        run("logout")
        assert token not in (tmp_path / "config" / "fixnorm-tune" / "tokens.json").read_text()
        run("token revoke")
        assert run("token list") != before
    finally:
        process.terminate()
        process.communicate(timeout=60)
