"""The manifests follow Kubernetes' schemas and KubeRay's, are locked down, and fit together."""

from __future__ import annotations

import copy
import shutil
import subprocess
from importlib.metadata import version
from typing import Any, Literal

import jsonschema
import kubernetes_validate
import pytest
import yaml
from deployment import DEPLOY, ROOT, check_command, containers, documents, manifests, settings_names
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.settings import Settings

FOLDER = DEPLOY / "kubernetes"
OLDEST, NEWEST = "1.30", "1.37"
OVERLAYS = ("small", "gpu")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Group(_Strict):
    """What KubeRay's head group has (ray-project/kuberay, apis/ray/v1/raycluster_types.go)."""

    rayStartParams: dict[str, str]  # noqa: N815 - the field's name there
    template: dict[str, Any]
    serviceType: str | None = None  # noqa: N815
    headService: dict[str, Any] | None = None  # noqa: N815


class WorkerGroup(Group):
    groupName: str  # noqa: N815
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)  # noqa: N815
    maxReplicas: int = Field(ge=1)  # noqa: N815
    numOfHosts: int = 1  # noqa: N815


class ClusterSpec(_Strict):
    rayVersion: str  # noqa: N815
    headGroupSpec: Group  # noqa: N815
    workerGroupSpecs: list[WorkerGroup]  # noqa: N815
    enableInTreeAutoscaling: bool = False  # noqa: N815
    suspend: bool = False


class RayCluster(_Strict):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayCluster"]
    metadata: dict[str, Any]
    spec: ClusterSpec


def check(manifest: dict[str, Any]) -> None:
    """One object, by the oldest and the newest Kubernetes that this is for."""
    if manifest["kind"] == "RayCluster":
        cluster = RayCluster.model_validate(manifest)
        for group in (cluster.spec.headGroupSpec, *cluster.spec.workerGroupSpecs):
            check_template(group.template)
        return
    for release in (OLDEST, NEWEST):
        kubernetes_validate.validate(manifest, release, strict=True)


def check_template(template: dict[str, Any]) -> None:
    wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
    for release in (OLDEST, NEWEST):
        kubernetes_validate.validate(wrapped, release, strict=True)


def gpu_group() -> dict[str, Any]:
    (patch,) = yaml.safe_load((FOLDER / "overlays/gpu/gpu-workers.yaml").read_text())
    assert (patch["op"], patch["path"]) == ("add", "/spec/workerGroupSpecs/-")
    return dict(patch["value"])


def everything() -> list[dict[str, Any]]:
    return [each for found in manifests().values() for each in found]


def one(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in everything() if (each["kind"], each["metadata"]["name"]) == (kind, name)][:1]
    return found


@pytest.mark.parametrize("name", sorted(manifests()))
def test_every_object_follows_its_schema(name: str) -> None:
    for manifest in manifests()[name]:
        check(manifest)


def test_the_group_with_gpus_that_the_overlay_adds_does_too() -> None:
    check_template(WorkerGroup.model_validate(gpu_group()).template)


def test_what_does_not_is_found() -> None:
    server = copy.deepcopy(one("Deployment", "server"))
    server["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(jsonschema.ValidationError):
        check(server)
    cluster = copy.deepcopy(one("RayCluster", "ray"))
    cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = 3
    with pytest.raises(jsonschema.ValidationError):
        check(cluster)
    cluster = copy.deepcopy(one("RayCluster", "ray"))
    cluster["spec"]["workerGroupSpec"] = []
    with pytest.raises(ValidationError):
        check(cluster)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_kustomization_names_files_and_targets_that_exist(overlay: str) -> None:
    (document,) = documents(FOLDER / "overlays" / overlay / "kustomization.yaml")
    assert set(document) <= {"apiVersion", "kind", "namespace", "resources", "images", "patches"}
    folder = FOLDER / "overlays" / overlay
    assert all((folder / each).exists() for each in document["resources"])
    used = {container["image"].split(":")[0] for each in everything() for container in containers(each)}
    assert {image["name"] for image in document.get("images", ())} <= used
    for patch in document.get("patches", ()):
        assert (folder / patch["path"]).exists()
        assert one(patch["target"]["kind"], patch["target"]["name"])
    (base,) = documents(FOLDER / "base" / "kustomization.yaml")
    on_disk = {path.name for path in (FOLDER / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(base["resources"]) == on_disk


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_makes_of_it_follows_the_schemas_too(overlay: str) -> None:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not on this machine; the files themselves are checked without it")
    command = [program, "kustomize", str(FOLDER / "overlays" / overlay)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    objects = list(yaml.safe_load_all(built))
    for manifest in objects:
        check(manifest)
        assert manifest["metadata"].get("namespace", "fixnorm-tune") == "fixnorm-tune"
    (cluster,) = [each for each in objects if each["kind"] == "RayCluster"]
    groups = [group["groupName"] for group in cluster["spec"]["workerGroupSpecs"]]
    assert groups == (["cpu", "gpu"] if overlay == "gpu" else ["cpu"])


def all_containers() -> list[dict[str, Any]]:
    return [each for manifest in (*everything(), gpu_group()) for each in containers(manifest)]


def test_every_container_is_locked_down_bounded_and_of_this_release() -> None:
    assert len(all_containers()) == 6
    for container in all_containers():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert container["name"] == "migrate" or {"readinessProbe", "livenessProbe"} <= set(container)
        name, tag = container["image"].rsplit(":", 1)
        assert "fixnorm" not in name or tag == version("fixnorm-tune")


def test_pods_run_without_root_and_without_an_account_of_the_cluster() -> None:
    specs = [each["spec"]["template"]["spec"] for each in everything() if "template" in each.get("spec", {})]
    cluster = one("RayCluster", "ray")["spec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"], gpu_group()]
    specs += [group["template"]["spec"] for group in groups]
    assert len(specs) == 6
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        claims = {
            each["persistentVolumeClaim"]["claimName"] for each in spec["volumes"] if "persistentVolumeClaim" in each
        }
        assert claims <= {each["metadata"]["name"] for each in everything() if each["kind"] == "PersistentVolumeClaim"}


def test_commands_and_variables_exist_in_the_program() -> None:
    for container in all_containers():
        if "fixnorm" not in container["image"]:
            continue
        check_command(container.get("command", []))
        for probe in ("readinessProbe", "livenessProbe"):
            check_command(container.get(probe, {}).get("exec", {}).get("command", []))
        given = {each["name"] for each in container.get("env", ()) if not each["name"].startswith("RAY_AUTH")}
        assert given <= settings_names()
    assert set(one("ConfigMap", "settings")["data"]) <= settings_names()


def test_secrets_are_references_to_keys_that_the_guide_makes() -> None:
    guide = (DEPLOY / "README.md").read_text()
    keys = set()
    for container in all_containers():
        for each in container.get("env", ()):
            if "TOKEN" in each["name"] or "PASSWORD" in each["name"] or "URL" in each["name"]:
                reference = each["valueFrom"]["secretKeyRef"]
                assert reference["name"] == "fixnorm-tune"
                keys.add(reference["key"])
    assert keys == {"database-url", "postgres-password", "admin-token", "ray-token"}
    assert all(f"--from-literal={key}=" in guide for key in keys)
    assert not any(each["kind"] == "Secret" for each in everything())


def test_trials_and_nothing_else_have_the_keys_of_an_object_store() -> None:
    guide = (DEPLOY / "README.md").read_text()
    having = [
        container["name"]
        for container in all_containers()
        for each in container.get("envFrom", ())
        if each.get("secretRef") == {"name": "bucket", "optional": True}
    ]
    assert having == ["ray-worker", "ray-worker"]  # of CPUs, and of GPUs
    of_the_server = [
        container["name"]
        for container in all_containers()
        if {"secretRef": {"name": "artifacts", "optional": True}} in container.get("envFrom", ())
    ]
    assert of_the_server == ["server"]
    assert "create secret generic artifacts --from-literal=FIXNORM_ARTIFACTS=s3://" in guide
    assert "create secret generic bucket --from-literal=AWS_ACCESS_KEY_ID=" in guide


def test_what_trials_fetch_is_kept_on_a_disk_of_each_worker_that_holds_what_the_setting_allows() -> None:
    settings = one("ConfigMap", "settings")["data"]
    groups = [*one("RayCluster", "ray")["spec"]["workerGroupSpecs"], gpu_group()]
    assert len(groups) == 2
    for group in groups:
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        volume = {each["name"]: each for each in spec["volumes"]}[mounted[settings["FIXNORM_DATA_CACHE"]]]
        claim = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
        assert claim["accessModes"] == ["ReadWriteOnce"]
        size = claim["resources"]["requests"]["storage"]
        assert int(size.removesuffix("Gi")) >= 1.1 * float(settings["FIXNORM_DATA_CACHE_GIB"])
    Settings.model_validate({"data_cache": settings["FIXNORM_DATA_CACHE"], "scratch": settings["FIXNORM_SCRATCH"]})
    assert settings["FIXNORM_SCRATCH"].startswith(f"{settings['FIXNORM_DATA_CACHE']}/")


def test_rays_ports_are_open_to_its_nodes_and_the_server_alone() -> None:
    policies = [each for each in everything() if each["kind"] == "NetworkPolicy"]
    names = {each["metadata"]["name"]: each["spec"] for each in policies}
    assert names["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    allowed = [
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for rule in names["ray"]["ingress"]
        for peer in rule["from"]
    ]
    assert sorted(allowed) == ["ray", "server"]


def test_ray_is_the_version_that_is_pinned() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert one("RayCluster", "ray")["spec"]["rayVersion"] == pinned["ray"]


def test_the_cluster_over_ssh_is_one_that_ray_up_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (document,) = documents(DEPLOY / "ray" / "cluster.yaml")
    validate_config(prepare_config(copy.deepcopy(document)))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(document | {"head_start_ray_command": []})
    for command in (*document["head_start_ray_commands"], *document["worker_start_ray_commands"]):
        words = command.split()
        check_command(["ray", *words[words.index(next(each for each in words if each.endswith("/ray"))) + 1 :]])


def test_the_cluster_over_ssh_looks_for_the_folders_that_its_server_is_told_of() -> None:
    text = (DEPLOY / "ray" / "cluster.yaml").read_text()
    (serve,) = [line for line in text.splitlines() if line.endswith(" fixnorm-tune serve")]
    given = dict(word.split("=", 1) for word in serve.split() if "=" in word)
    assert set(given) == {"FIXNORM_STATE_DIR", "FIXNORM_DATA_CACHE", "RAY_ADDRESS"}
    (document,) = documents(DEPLOY / "ray" / "cluster.yaml")
    looked_at = document["setup_commands"][0].replace("&&", "").replace("test -w", "").split()
    assert looked_at == [given["FIXNORM_STATE_DIR"], given["FIXNORM_DATA_CACHE"]]
    assert given["RAY_ADDRESS"].split(":")[0] == document["provider"]["head_ip"]


def test_a_volume_that_two_servers_have_at_once_is_one_that_several_nodes_can_write() -> None:
    server = one("Deployment", "server")
    assert server["spec"]["strategy"]["rollingUpdate"]["maxSurge"] > 0  # a new one starts beside the old one
    volumes = server["spec"]["template"]["spec"]["volumes"]
    names = {each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each}
    assert "state" in names
    for name in names:
        assert one("PersistentVolumeClaim", name)["spec"]["accessModes"] == ["ReadWriteMany"]
