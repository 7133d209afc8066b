"""What the files for deployment say, read as Compose, kustomize and Prometheus read them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^}]*))?\}")


def documents(path: Path) -> list[dict[str, Any]]:
    """All documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document is not None]


def compose() -> dict[str, Any]:
    """``docker-compose.yml``, its variables as they are written."""
    (document,) = documents(ROOT / "docker-compose.yml")
    return document


def interpolated(value: Any, given: Mapping[str, str]) -> Any:
    """A part of it with its variables filled in.

    Raises:
        KeyError: If one that must be given is not.
    """
    match value:
        case dict():
            return {key: interpolated(each, given) for key, each in value.items()}
        case list():
            return [interpolated(each, given) for each in value]
        case str():
            return _VARIABLE.sub(lambda found: _fill(found, given), value)
    return value


def variables(value: Any) -> Iterator[re.Match[str]]:
    """Those of a part of it."""
    match value:
        case dict():
            for each in value.values():
                yield from variables(each)
        case list():
            for each in value:
                yield from variables(each)
        case str():
            yield from _VARIABLE.finditer(value)


def manifests() -> dict[str, list[dict[str, Any]]]:
    """The Kubernetes objects of every file below ``deploy/kubernetes``; patches and kustomizations are none."""
    found = {}
    for path in sorted((DEPLOY / "kubernetes").rglob("*.yaml")):
        objects = [each for each in documents(path) if isinstance(each, dict) and each["kind"] != "Kustomization"]
        if objects:
            found[str(path.relative_to(DEPLOY / "kubernetes"))] = objects
    return found


def containers(value: Any) -> Iterator[dict[str, Any]]:
    """All containers below a Kubernetes object or a patch."""
    match value:
        case dict():
            yield from value.get("containers", ())
            for each in value.values():
                yield from containers(each)
        case list():
            for each in value:
                yield from containers(each)


def settings_names() -> set[str]:
    """The variables of the environment that a server reads; one of them is uvicorn's."""
    return {f"FIXNORM_{name.upper()}" for name in Settings.model_fields} | {"RAY_ADDRESS", "FORWARDED_ALLOW_IPS"}


def check_command(command: list[str]) -> None:
    """Of a container: one of ours or Ray's, with options that it has."""
    if not command or command[0] in {"python", "true"}:
        return
    from ray.scripts.scripts import cli as ray  # only now: it takes a while
    from typer.main import get_command

    from service.cli.main import app

    match command:
        case ["ray", *words]:
            found = _subcommand(ray, words)
        case ["serve-on-ray", *words]:
            found = _subcommand(get_command(app), ["serve", *words])
        case ["fixnorm-tune", *words]:
            found = _subcommand(get_command(app), words)
        case [other, *_]:
            raise AssertionError(f"there is no command {other}")
    options = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.split("=")[0] for word in command if word.startswith("--")}
    assert given <= options, given - options


def _subcommand(group: Any, words: list[str]) -> Any:
    """The command that words name: all of them up to the first option."""
    for word in words:
        if word.startswith("-"):
            break
        group = group.commands[word] if hasattr(group, "commands") else group
    assert not hasattr(group, "commands"), words
    return group


def _fill(found: re.Match[str], given: Mapping[str, str]) -> str:
    name = found["name"]
    if given.get(name):
        return given[name]
    if found["how"] == ":-":
        return str(found["rest"])
    raise KeyError(name)
