"""What the how-tos show is run: Python as it stands, commands on a server."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer.main
import yaml
from optuna import Study
from PIL import Image
from processes import running_server
from shown import blocks
from torch import nn
from typer.testing import CliRunner

from fixnorm_core import FixNorm, FixNormSampler
from fixnorm_core.spec import JobSpec
from service.cli.main import app
from service.client import Client

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
ALL_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def is_command(line: str) -> bool:
    return re.match(r"([A-Z_]+=\S+ )*fixnorm-tune ", line) is not None and "──" not in line


def commands(page: Path) -> list[list[str]]:
    """The lines that begin with our command, without it, comments and what a shell would do with the output."""
    lines = [line.removeprefix("$ ") for block in blocks(page, "") for line in block.splitlines()]
    split = (shlex.split(line, comments=True) for line in lines if is_command(line))
    found = []
    for words in split:
        words = words[words.index("fixnorm-tune") + 1 :]
        found.append(words[: words.index(">")] if ">" in words else words)
    return found


def make_flowers(folder: Path) -> None:
    """The images that a how-to says are its reader's."""
    for index in range(40):
        place = folder / "flowers" / ("daisy", "tulip")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (index, 0, 0)).save(place / f"{index:04}.jpg")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server"), epoch_seconds=0.02) as url:
        yield url


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_how_to_runs_as_it_stands(page: Path, server: str, tmp_path: Path) -> None:
    make_flowers(tmp_path)
    for number, code in enumerate(blocks(page, "python")):
        script = tmp_path / f"block_{number}.py"
        script.write_text(code, encoding="utf-8")
        environment = os.environ | {"FIXNORM_SERVER": server, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script of the page on several GPUs leaves: two ranks train on the digits, on this machine's CPUs."""
    folder = tmp_path_factory.mktemp("trained")
    (script,) = blocks(ROOT / "docs" / "multi-gpu.md", "python")
    (folder / "script.py").write_text(script, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "script.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["1", "2", "3"]
    return folder / "two-ranks"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "quickstart.md"], ids=lambda page: page.stem)
def test_the_other_python_runs_with_what_its_page_says_is_yours(
    page: Path, server: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.safetensors").write_bytes((trained / "weights.safetensors").read_bytes())
    Image.new("L", (20, 30), 128).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    yours = {
        "train": lambda lr, fc_norm: 0.9 - abs(lr - 0.01) - 0.001 * fc_norm,
        "model": model,
        "images": torch.randn(32, 3, 8, 8),
    }
    made: dict[str, object] = {}
    for code in blocks(page, "python"):
        names: dict[str, object] = dict(yours)
        exec(code.replace("http://127.0.0.1:8780", server), names)
        made |= names
    assert isinstance(made["optimizer"], FixNorm)
    assert isinstance(made["study"], Study)
    assert isinstance(made["study"].sampler, FixNormSampler)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.stem)
def test_the_job_files_of_a_how_to_are_jobs(page: Path) -> None:
    for shown in blocks(page, "yaml"):
        assert isinstance(JobSpec.model_validate(yaml.safe_load(shown)), JobSpec)


@pytest.mark.parametrize("page", [page for page in ALL_PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_that_is_shown_is_one(page: Path) -> None:
    command = typer.main.get_command(app)
    for words in commands(page):
        group, rest = command, [word.replace("JOB", "job-1") for word in words if not word.startswith("--install")]
        while rest and hasattr(group, "commands"):
            name = rest.pop(0)
            assert name in group.commands, words
            group = group.commands[name]
        if group is not command:
            group.make_context("shown", list(rest))


@pytest.mark.parametrize("name", ["own-data", "weight-decay"])
def test_the_jobs_that_a_how_to_submits_would_be_taken(
    name: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "how-to" / f"{name}.md"
    (tmp_path / "my-job.yaml").write_text(blocks(page, "yaml")[0], encoding="utf-8")
    make_flowers(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIXNORM_SERVER", server)
    submissions = [words for words in commands(page) if words[0] == "submit"]
    assert len(submissions) >= 2
    for words in submissions:
        if "search.warm_start=[JOB]" not in words:
            planned = [word for word in words if word not in ("--watch", "--dry-run")]
            result = CliRunner().invoke(app, [*planned, "--dry-run"])
            assert result.exit_code == 0, result.output


def test_what_is_said_about_going_on_is_so(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIXNORM_SERVER", server)
    job_id, done = "", []
    with Client(server) as client:
        for words in commands(ROOT / "docs" / "how-to" / "resume.md"):
            if words[0] == "serve":
                continue
            if words[0] == "extend":
                client.wait(job_id)  # a stopped job's running trials finish first
            result = CliRunner().invoke(app, [word.replace("JOB", job_id) for word in words])
            assert result.exit_code == 0, (words, result.output)
            if words[0] == "submit":
                job_id = re.findall(r"job-\w+", result.output)[0]
            done.append((words[0], client.job(job_id).state))
        assert dict(done)["watch"] == dict(done)["extend"] or dict(done)["extend"] in ("QUEUED", "RUNNING")
        assert dict(done)["watch"] == "SUCCEEDED"
        assert dict(done)["pause"] == "PAUSED"
        assert dict(done)["stop"] in ("STOPPING", "SUCCEEDED")
        assert client.wait(job_id).state == "SUCCEEDED"
