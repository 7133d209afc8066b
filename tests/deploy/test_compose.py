"""The compose file is one, starts nothing without secrets, publishes only what it must, and names what exists."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from deployment import DEPLOY, ROOT, check_command, compose, interpolated, settings_names, variables

from service.settings import SECRETS, Settings

OURS = ("migrate", "ray-head", "ray-worker", "ray-worker-gpu", "server")
NODES = ("ray-head", "ray-worker", "ray-worker-gpu")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return dict(compose()["services"])


def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def commented() -> set[str]:
    """What may be set too."""
    return set(re.findall(r"^# (\w+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))


def commands(service: dict[str, Any]) -> Iterator[list[str]]:
    yield service.get("command", [])
    yield service.get("healthcheck", {}).get("test", ["CMD"])[1:]


def test_it_follows_the_compose_specification() -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    document = compose()
    jsonschema.validate(document, schema)
    document["services"]["server"]["port"] = []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_no_secret_has_a_value_of_its_own_and_the_rest_needs_none() -> None:
    required = {found["name"] for found in variables(compose()) if found["how"] != ":-"}
    assert required == {name for name, value in example().items() if value == "" and name != "TORCH_INDEX"}
    assert {found["name"] for found in variables(compose())} == set(example()) | commented()
    assert not set(example()) & commented()
    for name in required:
        given = {each: "x" for each in required if each != name}
        with pytest.raises(KeyError, match=name):
            interpolated(compose(), given)


def test_what_new_env_writes_is_enough_and_it_writes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deploy").mkdir()
    for name in (".env.example", "deploy/new-env.sh"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    command = ["sh", str(tmp_path / "deploy" / "new-env.sh")]
    subprocess.run(command, check=True, capture_output=True)
    env = tmp_path / ".env"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    given = dict(line.split("=", 1) for line in env.read_text().splitlines() if line and not line.startswith("#"))
    secrets = [value for name, value in given.items() if name in {"RAY_AUTH_TOKEN", "FIXNORM_ADMIN_TOKEN"}]
    assert len(set(secrets)) == 2
    environment = interpolated(compose(), given)["services"]["server"]["environment"]
    for name, each in environment.items():
        if name.startswith("FIXNORM_"):
            monkeypatch.setenv(name, each)
    settings = Settings()
    assert (settings.keep_jobs_days, settings.keep_jobs, settings.keep_best) == (None, None, True)
    assert (settings.mlflow_tracking_uri, settings.mlflow_experiment) == (None, "fixnorm-tune")
    assert (settings.allowed_data_roots, settings.allowed_modules) == (None, ())
    assert settings.admin_token is not None
    assert settings.url.startswith("postgresql+psycopg://fixnorm:")
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 1
    assert "there already" in again.stderr
    assert env.read_text().count("=") == len(given) + len(commented())


NOT_PASSED_ON = {
    "another way to give what it gives": {"ADMIN_TOKEN_FILE", "RAY_ADDRESS", "REQUIRE_TOKENS"},
    "the proxy's in front, not the server's": {"TLS_CERT", "TLS_KEY"},
    "of a server with a Ray of its own, or none": {"BACKEND", "CPUS", "EPOCH_SECONDS", "GPUS"},
    "how often servers look, and wait for each other": {
        "HEARTBEAT",
        "LEASE_SECONDS",
        "ORPHAN_SECONDS",
        "POLL_INTERVAL",
        "RETRY_SECONDS",
    },
    "made in the state folder, which all servers share": {"WEBHOOK_SECRET"},
}


def test_every_other_setting_reaches_the_server(services: dict[str, dict[str, Any]]) -> None:
    """One that stood in .env alone would be without effect, and nothing would say so."""
    known = {f"FIXNORM_{name.upper()}" for name in Settings.model_fields}
    left_out = {f"FIXNORM_{name}" for names in NOT_PASSED_ON.values() for name in names}
    assert known - set(services["server"]["environment"]) == left_out


def test_a_laptop_without_a_gpu_gets_all_that_a_job_needs(services: dict[str, dict[str, Any]]) -> None:
    started = {name for name, service in services.items() if not service.get("profiles")}
    assert started == {"postgres", "migrate", "ray-head", "ray-worker", "server"}
    needed = {name for service in services.values() for name in service.get("depends_on", ())}
    assert needed <= started | {"prometheus"}
    assert not any("devices" in json.dumps(services[name]) for name in started)


def test_only_the_servers_and_grafanas_pages_are_published_and_only_here(services: dict[str, dict[str, Any]]) -> None:
    published = {name: interpolated(service["ports"], {}) for name, service in services.items() if "ports" in service}
    assert published == {"server": ["127.0.0.1:8780:8780"], "grafana": ["127.0.0.1:3000:3000"]}
    assert compose()["networks"]["database"] == {"internal": True}
    on_database = {name for name, service in services.items() if "database" in service["networks"]}
    assert on_database == {"postgres", "migrate", "server"}
    assert {name for name, service in services.items() if "ray" in service["networks"]} == {*NODES, "server"}


@pytest.mark.parametrize("name", list(compose()["services"]))
def test_every_container_is_locked_down_and_looked_after(services: dict[str, dict[str, Any]], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?", service["image"])
    assert name in OURS or service["user"] not in {"root", "0"}
    assert name == "migrate" or service["healthcheck"]["test"][0] == "CMD"
    volumes = [each.split(":")[0] for each in interpolated(service.get("volumes", []), {})]
    assert all(volume.startswith("./deploy/") or volume in compose()["volumes"] for volume in volumes)
    assert all((ROOT / volume).exists() for volume in volumes if volume.startswith("./"))


def test_no_node_of_the_cluster_is_told_the_servers_secrets(services: dict[str, dict[str, Any]]) -> None:
    for name in NODES:
        assert not set(SECRETS) & set(services[name]["environment"])
    script = (DEPLOY / "docker" / "serve-on-ray").read_text(encoding="utf-8")
    assert re.findall(r"-u (FIXNORM_\w+)", script) == list(SECRETS)


def test_servers_and_workers_see_the_state_folder_and_the_images_under_one_path(
    services: dict[str, dict[str, Any]],
) -> None:
    shared, settings = services["server"]["volumes"], services["server"]["environment"]
    assert {tuple(services[name]["volumes"][: len(shared)]) for name in NODES} == {tuple(shared)}
    assert services["server"]["volumes"][0].endswith(f":{settings['FIXNORM_STATE_DIR']}")
    assert services["server"]["volumes"][1].endswith(f":{settings['FIXNORM_DATA_ROOT']}")


def test_what_trials_fetch_is_kept_in_a_volume_of_the_nodes_that_their_account_may_write(
    services: dict[str, dict[str, Any]],
) -> None:
    settings = services["server"]["environment"]
    assert not settings["FIXNORM_DATA_CACHE"].startswith((settings["FIXNORM_STATE_DIR"], "/tmp"))
    for name in NODES:
        volume, target = interpolated(services[name]["volumes"][-1], {}).rsplit(":", 1)
        assert (volume, target) == ("cache", settings["FIXNORM_DATA_CACHE"])
        assert "cache" in compose()["volumes"]
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    made = re.search(r"install -d -o fixnorm -g fixnorm (.+)$", dockerfile, re.MULTILINE)
    assert made is not None
    assert settings["FIXNORM_DATA_CACHE"] in made[1].split()  # which a new volume gets its owner from
    assert f'VOLUME ["{settings["FIXNORM_DATA_CACHE"]}"]' in dockerfile
    assert {"FIXNORM_DATA_CACHE_DAYS", "FIXNORM_DATA_CACHE_GIB"} <= commented() & set(settings)


BUCKETS = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
}


def test_trials_are_given_what_they_read_buckets_with_and_the_server_keys_of_its_own(
    services: dict[str, dict[str, Any]],
) -> None:
    for name in NODES:
        assert set(services[name]["environment"]) & BUCKETS == (set() if name == "ray-head" else BUCKETS)
        assert services[name]["build"]["args"]["EXTRAS"] == "worker,s3"
    assert services["server"]["build"]["args"]["EXTRAS"].endswith(",s3")
    given = dict.fromkeys((*BUCKETS, "POSTGRES_PASSWORD", "RAY_AUTH_TOKEN", "FIXNORM_ADMIN_TOKEN"), "the trials'")
    environment = compose()["services"]["server"]["environment"]
    for prefix, expected in (("", ""), ("SERVER_", "its own")):
        own = {f"{prefix}{name}": "its own" for name in BUCKETS} if prefix else {}
        found = interpolated(environment, given | own)
        assert {found[name] for name in BUCKETS if "KEY" in name or "TOKEN" in name} == {expected}


def test_trials_work_on_the_disk_of_their_node(services: dict[str, dict[str, Any]]) -> None:
    settings = services["server"]["environment"]
    assert settings["FIXNORM_SCRATCH"] == f"{settings['FIXNORM_DATA_CACHE']}/trials"  # no data set has such a name
    assert "FIXNORM_ARTIFACTS" in commented()


def test_every_variable_of_our_containers_is_a_setting(services: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        given = {each for each in services[name]["environment"] if not each.startswith("RAY_")}
        assert given <= (BUCKETS if name in NODES else settings_names() | BUCKETS)


def test_every_command_and_option_exists(services: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        for command in commands(services[name]):
            check_command(command)


@pytest.mark.parametrize(
    "command",
    [["ray", "start", "--nodes=3"], ["fixnorm-tune", "serve", "--hosts=0"], ["fixnorm-tune", "migrate"], ["serve"]],
    ids=" ".join,
)
def test_a_command_or_option_that_does_not_exist_would_be_found(command: list[str]) -> None:
    with pytest.raises((AssertionError, KeyError)):
        check_command(command)


def test_images_are_called_as_the_release_is(services: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        assert services[name]["image"].split(":")[1] == version("fixnorm-tune")
