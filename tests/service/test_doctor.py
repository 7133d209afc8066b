"""``fixnorm-tune doctor`` says what is missing on this machine, and what to do about it."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving
from typer.testing import CliRunner, Result

from service import doctor
from service.access.scopes import Scope
from service.administration import create_token
from service.cli.main import app
from service.composition import build
from service.dashboard import WithDashboard
from service.settings import Settings


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with no settings in the environment."""
    for name in ("RAY_ADDRESS", "FIXNORM_DATABASE_URL", "FIXNORM_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(*options: str) -> tuple[Result, dict[str, dict[str, Any]]]:
    result = CliRunner().invoke(app, ["doctor", "-o", "json", *options], catch_exceptions=False)
    return result, {each["what"]: each for each in json.loads(result.stdout)}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_on_a_machine_that_has_everything_nothing_is_a_problem_and_nothing_is_made(here: Path) -> None:
    result, found = ask("--server", f"http://127.0.0.1:{free_port()}")
    assert result.exit_code == 0
    assert [*found] == [*doctor.CHECKS, "server"]
    assert {each["condition"] for each in found.values()} <= {"ok", "warning"}
    assert found["database"]["says"].startswith("the server will make sqlite:///")
    assert "none answers" in found["server"]["says"]
    assert [*here.iterdir()] == []


def test_it_looks_at_the_state_folder_that_a_server_would_be_given(here: Path) -> None:
    wanted = here / "elsewhere"
    _, found = ask("--state-dir", str(wanted), "--server", f"http://127.0.0.1:{free_port()}")
    assert str(wanted / "fixnorm.db") in found["database"]["says"]
    assert str(wanted) in found["disk"]["says"]
    assert [*here.iterdir()] == []


def test_a_server_that_answers_is_told_with_its_duty(here: Path, http: httpx.Client) -> None:
    del here
    _, found = ask("--server", str(http.base_url))
    assert found["server"]["says"].endswith("and runs jobs")
    assert (found["/dashboard"]["condition"], found["/dashboard"]["says"]) == (
        "ok",
        f"{str(http.base_url).rstrip('/')}/dashboard shows the studies",
    )


@pytest.mark.parametrize("is_there", [True, False])
def test_a_servers_dashboard_that_does_not_show_is_a_problem_or_wants_a_token(
    here: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here))
    service = build(settings)
    if is_there:
        create_token(settings, "ann", Scope.READ, lifetime=None)
        service.close()
        service = build(settings)  # asks for tokens from its start on
    else:
        monkeypatch.setattr(WithDashboard, "__call__", lambda self, *given: self._app(*given))
    with serving(service.app) as url:
        result, found = ask("--server", url)
    told = found["/dashboard"]
    if is_there:
        assert (told["condition"], "fixnorm-tune login" in told["way_out"]) == ("warning", True)
        assert result.exit_code == 0
    else:
        assert (told["condition"], "answers 404" in told["says"]) == ("problem", True)
        assert result.exit_code == 1


def test_what_does_not_answer_is_a_problem_with_its_way_out_and_without_its_password(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del here
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("FIXNORM_DATABASE_URL", f"postgresql://me:secret@127.0.0.1:{free_port()}/x")
    result, found = ask()
    assert result.exit_code == 1
    assert found["Ray"]["condition"] == found["database"]["condition"] == "problem"
    assert "ray start --head" in found["Ray"]["way_out"]
    assert "FIXNORM_DATABASE_URL" in found["database"]["way_out"]
    assert "secret" not in result.stdout
    plain = CliRunner().invoke(app, ["doctor"], catch_exceptions=False)
    assert plain.exit_code == 1
    assert "\nproblem  Ray        Ray " in plain.stdout


def test_a_cluster_that_ray_is_to_find_by_itself_is_not_looked_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del here
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    _, found = ask()
    assert found["Ray"]["condition"] == "ok"


def test_a_torch_and_a_torchvision_that_do_not_fit_are_a_problem_with_its_way_out(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del here
    monkeypatch.setitem(sys.modules, "fixnorm_core.vision", None)  # its import fails then
    _, found = ask()
    assert found["torch"]["condition"] == "problem"
    assert " do not work together: " in found["torch"]["says"]
    assert found["torch"]["way_out"].startswith("Install versions that do: pip install '.[server]' in a checkout, or ")


@pytest.mark.parametrize(
    ("package", "condition"),
    [("raise RuntimeError('operator torchvision::nms does not exist')", "warning"), ("", "ok")],
)
def test_torchvision_is_imported_as_a_users_own_code_would(
    here: Path, monkeypatch: pytest.MonkeyPatch, package: str, condition: str
) -> None:
    (here / "torchvision.py").write_text(package)
    monkeypatch.setenv("PYTHONPATH", str(here))  # of the process that tries it, not of this one
    _, found = ask()
    assert found["torch"]["condition"] == condition
    if package:
        assert "in code of your own fails: RuntimeError: operator torchvision::nms" in found["torch"]["says"]
        assert "'from fixnorm_core.vision import torchvision'" in found["torch"]["way_out"]


def test_a_full_disk_a_missing_package_and_a_bad_setting_are_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(here)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    monkeypatch.setenv("FIXNORM_CPUS", "-1")
    _, found = ask()
    assert found["dashboard"]["condition"] == "problem"
    assert found["dashboard"]["way_out"].startswith(
        "Install the server too: pip install '.[server]' in a checkout, or "
    )
    assert "FIXNORM_CPUS" in found["Ray"]["says"] or "cpus" in found["Ray"]["says"]
    monkeypatch.delenv("FIXNORM_CPUS")
    _, found = ask()
    assert (found["disk"]["condition"], found["disk"]["says"][-12:]) == ("warning", "1.0 MiB free")
