"""Wheel and sdist, built and installed into clean environments: a laptop's, which only submits, and a server's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from deployment import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from waiting import wait_until
from watching import count_of, save_picture, shown, watched_page

from worker.recording import Recording

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("fixnorm_core", "worker", "service")
HEAVY = {"torch", "torchvision", "ray", "numpy", "scipy", "optuna", "sqlalchemy", "fastapi", "uvicorn", "psycopg"}


def run(*command: str | Path, **more: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr or done.stdout
    return str(done.stdout)


def tracked() -> list[str]:
    """What a checkout holds; without git, what an sdist holds."""
    if not (ROOT / ".git").exists():
        pytest.skip("the files of a release are compared with a checkout's, and this is none")
    return [
        name
        for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
        if (ROOT / name).is_file()
    ]


def build(kind: str, source: Path, to: Path) -> Path:
    """By the project's own build backend, without fetching anything."""
    to.mkdir(exist_ok=True)
    call = f"import setuptools.build_meta as backend; print(backend.build_{kind}({str(to)!r}))"
    return to / run(sys.executable, "-c", call, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    return build("sdist", source, source.parent / "dist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sdist, as whoever packages it would make it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build("wheel", source, folder.parent / "dist")


def needed_by(wheel: Path) -> set[str]:
    """What an installer would fetch for the wheel without extras: what it requires, what that requires, and so on."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        told = message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    found: set[str] = set()
    waiting = [(Requirement(each), "") for each in told]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        extras = {"", *requirement.extras}
        if name not in found:
            found.add(name)
            waiting += [(Requirement(each), extra) for each in distribution(name).requires or () for extra in extras]
    return found


@pytest.fixture(scope="module")
def laptop(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and what it needs by itself: copied, which needs no index."""
    folder = tmp_path_factory.mktemp("laptop")
    venv.create(folder, with_pip=False)
    site = site_of(folder)
    for name in needed_by(wheel):
        package = distribution(name)
        for file in package.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(package.locate_file(file)), site / file)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    run(*pip, "--no-index", "--disable-pip-version-check", wheel)  # fails if anything is missing
    return folder / "bin"


def site_of(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))


@pytest.fixture(scope="module")
def server(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server from the wheel, on the simulator; its packages are those of these tests."""
    folder = tmp_path_factory.mktemp("server")
    venv.create(folder, with_pip=False)
    site = site_of(folder)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "packages.pth").write_text(str(distribution("fastapi").locate_file("")))
    python, url = folder / "bin" / "python", folder / "url"
    where = run(python, "-c", "import service.cli, worker, fixnorm_core; print(service.cli.__file__)", cwd=folder)
    assert where.startswith(str(site))
    command = [python, "-m", "service.cli.main", "serve", "--port=0", "--backend=simulator", f"--url-file={url}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--state-dir={folder / 'state'}"], stdout=log, stderr=log, cwd=folder)
    try:
        wait_until(lambda: url.exists() or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield url.read_text().strip()
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_the_sdist_has_all_that_the_checkout_has(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked() if name != ".gitignore"} <= held


def test_the_wheel_of_the_sdist_has_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert held == {name for name in tracked() if name.split("/")[0] in PACKAGES}


def test_the_version_stands_in_one_place(wheel: Path, laptop: Path) -> None:
    version = PROJECT["version"]
    assert wheel.name.startswith(f"fixnorm_tune-{version}-")
    assert run(laptop / "fixnorm-tune", "--version").strip() == f"fixnorm-tune {version}"
    code = [name for name in tracked() if name.endswith(".py") and name.split("/")[0] in PACKAGES]
    assert not [name for name in code if re.search(rf"[\"']{re.escape(version)}[\"']", (ROOT / name).read_text())]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert "## Unreleased" in changes or f"## {version}" in changes


def test_a_laptop_gets_no_torch_no_ray_and_no_database(wheel: Path, laptop: Path) -> None:
    needed = needed_by(wheel)
    assert {"httpx", "pydantic", "rich", "typer"} <= needed
    assert not needed & HEAVY
    for words in (["serve"], ["token", "list"], ["token", "create", "ann"], ["database", "upgrade"], ["prune"]):
        told = subprocess.run([laptop / "fixnorm-tune", *words], capture_output=True, text=True, check=False)
        assert told.returncode == 2
        assert "pip install '.[server]' in a checkout, or pip install 'WHEEL[server]'" in told.stderr


def test_a_laptop_submits_and_gets_the_result_from_a_server_of_the_wheel(
    laptop: Path, server: str, tmp_path: Path
) -> None:
    job = tmp_path / "job.json"
    budget = {"max_trials": 3, "confirm_runs": 1}
    job.write_text(json.dumps(Recording.packaged().job.model_dump(mode="json") | {"budget": budget}))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FIXNORM_SERVER": server}
    program = laptop / "fixnorm-tune"
    said = run(program, "submit", job, "--watch", env=environment, cwd=tmp_path)
    (job_id,) = set(re.findall(r"job-\w+", said))
    best = json.loads(run(program, "best", job_id, "--output=json", env=environment, cwd=tmp_path))
    assert 0.5 < best["validation_accuracy"] <= 1
    listed = json.loads(run(program, "list", "--output=json", env=environment, cwd=tmp_path))
    assert [(each["id"], each["state"]) for each in listed] == [(job_id, "SUCCEEDED")]
    assert "# " in run(program, "report", job_id, env=environment, cwd=tmp_path)


def test_the_wheels_server_shows_a_job_and_its_study_in_a_real_browser(browser: Browser, server: str) -> None:
    budget = {"max_trials": 3, "confirm_runs": 0, "stop_early": False}
    spec = Recording.packaged().job.model_dump(mode="json") | {"name": "from the wheel", "budget": budget}
    job_id = httpx.post(f"{server}/api/v1/jobs", json=spec, timeout=60).raise_for_status().json()["id"]
    with watched_page(browser, server) as page:
        page.goto(f"/jobs/{job_id}")
        page.locator(".status .badge.succeeded").wait_for()
        page.locator("#surface .contourlayer path").first.wait_for(state="attached")
        page.goto("/dashboard")
        page.get_by_text(job_id).first.click()
        page.wait_for_url("**/dashboard/studies/*")
        assert shown(page, count_of("#plot-history .points path"), least=3) == 3
        page.get_by_text("Expected accuracy, and the trials").wait_for()
        save_picture(page, "dashboard-of-the-wheel")
