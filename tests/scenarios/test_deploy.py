"""The deployment files are valid for Kubernetes, KubeRay, Ray and compose, and their commands exist."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from tests.support.documented_commands import ROOT, NoSuchCommandError, check, inline_lines, page_lines, shell_lines

DEPLOY = ROOT / "cluster/deploy"
PAGE = ROOT / "docs/how-to/cluster.md"
KUBERNETES = "1.34"
KUBERAY = json.loads((Path(__file__).parent / "kuberay_schema.json").read_text())
RAY_OBJECTS = ("raycluster.yaml", "rayjob.yaml")
SECRET = re.compile("PASSWORD|SECRET|KEY|TOKEN|BACKEND_STORE_URI")


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def cluster_of(ray_object: dict[str, Any]) -> dict[str, Any]:
    """Returns the cluster of a RayCluster or a RayJob."""
    cluster: dict[str, Any] = ray_object["spec"].get("rayClusterSpec", ray_object["spec"])
    return cluster


def pods_of(ray_object: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the pod specifications by the name of their group."""
    cluster = cluster_of(ray_object)
    groups = {"head": cluster["headGroupSpec"]} | {item["groupName"]: item for item in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in groups.items()}


def check_ray_object(ray_object: dict[str, Any]) -> None:
    """Validates an object with the schema of KubeRay, and its pod templates with the schema of Kubernetes."""
    jsonschema.Draft202012Validator(KUBERAY).validate(ray_object)
    for name, pod in pods_of(ray_object).items():
        template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}
        kubernetes_validate.validate(template, KUBERNETES, strict=True)


def check_compose(compose: dict[str, Any]) -> None:
    jsonschema.validators.validator_for(schema := get_builtin_schema("vendor.compose-spec"))(schema).validate(compose)


def project() -> dict[str, Any]:
    metadata: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return metadata


@pytest.mark.parametrize("name", RAY_OBJECTS)
def test_ray_objects_are_valid(name: str) -> None:
    check_ray_object(load(name))


def test_volume_is_valid() -> None:
    claim = load("volume.yaml")
    kubernetes_validate.validate(claim, KUBERNETES, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("authOptions.mode", "secret"),
        ("autoscaling", True),
        ("workerGroupSpecs.0.minReplica", 1),
        ("workerGroupSpecs.0.maxReplicas", "8"),
        ("headGroupSpec.rayStartParams.num-cpus", 0),
        ("headGroupSpec.template.spec.containers.0.resource", {}),
        ("workerGroupSpecs.1.template.spec.containers.0.volumeMounts.0.mount", "/store"),
    ],
)
@pytest.mark.parametrize("name", RAY_OBJECTS)
def test_validation_finds_errors(name: str, path: str, value: object) -> None:
    ray_object = copy.deepcopy(load(name))
    parent: Any = cluster_of(ray_object)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        parent = parent[part]
    parent[last] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_ray_object(ray_object)


@pytest.mark.parametrize("name", RAY_OBJECTS)
def test_every_pod_mounts_the_store(name: str) -> None:
    image = (DEPLOY / "Dockerfile").read_text()
    claim = load("volume.yaml")["metadata"]["name"]
    pods = pods_of(load(name))
    assert set(pods) == {"head", "cpu", "gpu"}
    for pod in pods.values():
        volumes = {item["name"]: item for item in pod["volumes"]}
        [mount] = pod["containers"][0]["volumeMounts"]
        assert volumes[mount["name"]]["persistentVolumeClaim"]["claimName"] == claim
        for variable in ("CLOZELINE_STORE", "CLOZELINE_CACHE", "HF_HOME"):
            assert f"{variable}={mount['mountPath']}/" in image


@pytest.mark.parametrize("name", RAY_OBJECTS)
def test_pods_use_the_image_without_root(name: str) -> None:
    users = re.findall(r"^USER (.+)$", (DEPLOY / "Dockerfile").read_text(), re.M)
    for pod in pods_of(load(name)).values():
        assert pod["containers"][0]["image"] == f"clozeline:{project()['version']}"
        assert pod["securityContext"]["runAsNonRoot"]
        assert users and set(users) == {str(pod["securityContext"]["runAsUser"])}


@pytest.mark.parametrize("name", RAY_OBJECTS)
def test_clusters_require_a_token_have_gpus_and_scale(name: str) -> None:
    cluster = cluster_of(load(name))
    assert cluster["authOptions"] == {"mode": "token", "secretName": "clozeline-ray"}
    assert "clozeline-ray --from-literal=auth_token=" in PAGE.read_text()
    assert cluster["rayVersion"] == version("ray")
    assert cluster["enableInTreeAutoscaling"] is True
    groups = {item["groupName"]: item for item in cluster["workerGroupSpecs"]}
    assert all(0 < group["minReplicas"] < group["maxReplicas"] for group in groups.values())
    limits = {name: pod["containers"][0]["resources"]["limits"] for name, pod in pods_of(load(name)).items()}
    assert {name for name, limit in limits.items() if "nvidia.com/gpu" in limit} == {"gpu"}


def test_ray_objects_have_the_same_cluster() -> None:
    assert cluster_of(load("rayjob.yaml")) == cluster_of(load("raycluster.yaml"))


def test_ray_up_file_is_valid() -> None:
    """Runs in its own process: Ray reads its environment when it is imported, and other tests start it later."""
    config = load("ray-up.yaml")
    code = """if True:
        import json, sys
        from ray.autoscaler._private.util import prepare_config, validate_config
        prepared = prepare_config(json.loads(sys.argv[1]))
        validate_config(prepared)
        print(prepared["max_workers"])
    """

    def prepare(content: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, json.dumps(content)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert prepare(config).stdout.split()[-1] == str(len(config["provider"]["worker_ips"]))
    invalid = prepare({**config, "setup_command": []})
    assert invalid.returncode != 0
    assert "'setup_command' was unexpected" in invalid.stderr


def test_ray_up_copies_existing_files_and_starts_ray_with_a_token() -> None:
    config = load("ray-up.yaml")
    for source in config["file_mounts"].values():
        assert source.startswith("~/.ray/") or (ROOT / source).exists()
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [line for line in starts if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)


def test_compose_file_is_valid() -> None:
    compose = load("compose.yaml")
    check_compose(compose)
    compose["services"]["mlflow"]["port"] = ["5000:5000"]
    with pytest.raises(jsonschema.ValidationError, match="port"):
        check_compose(compose)


def test_compose_ports_listen_on_this_machine_only() -> None:
    ports = [port for item in load("compose.yaml")["services"].values() for port in item.get("ports", [])]
    assert len(ports) == 2
    assert all(re.fullmatch(r"\$\{CLOZELINE_BIND:-127\.0\.0\.1\}:\d+:\d+", port) for port in ports)


def test_secrets_have_no_default() -> None:
    names = set()
    for service in load("compose.yaml")["services"].values():
        for name, value in service["environment"].items():
            if SECRET.search(name):
                # With :? compose stops if the variable is empty.
                names.update(re.findall(r"\$\{(\w+):\?[^}]+\}", value))
                assert ":?" in value and ":-" not in value
    example = (DEPLOY / "env.example").read_text()
    assert names == {"POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert all(re.search(rf"^{name}=$", example, re.M) for name in names)


@pytest.mark.parametrize(("name", "num_installs"), [("Dockerfile", 3), ("serve.Dockerfile", 2)])
def test_image_has_pinned_packages_and_existing_files(name: str, num_installs: int) -> None:
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert len(installs) == num_installs
    assert all("--constraint constraints.txt" in line for line in installs)
    allowed = re.findall(r"^!(.+)$", (DEPLOY / f"{name}.dockerignore").read_text(), re.M)
    for line in re.findall(r"^COPY (.+)$", text, re.M):
        for source in line.split()[:-1]:
            assert source.partition("/")[0] in allowed and (ROOT / source).exists()
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"], build["hooks"]["custom"]["path"]} <= set(allowed)
    [python] = re.findall(r"^ARG PYTHON=(\d+\.\d+)$", text, re.M)
    assert project()["requires-python"] == f">={python}"


def test_packages_of_the_image_are_pinned() -> None:
    pins = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().split()}
    extras = project()["optional-dependencies"]
    required = {re.split(r"[\[<>=]", item)[0] for extra in ("cluster", "s3") for item in extras[extra]}
    assert required | {"mlflow", "boto3", "psycopg2-binary"} <= pins


def test_the_image_that_only_serves_has_pinned_packages_of_the_project() -> None:
    lines = (DEPLOY / "serve-requirements.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    required = {re.split(r"[\[<>=]", item)[0] for item in project()["dependencies"]}
    assert {"torch", "transformers"} <= set(names) <= required - {"ray", "deepspeed", "mlflow"}
    pins = {
        line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()
    }
    assert set(names) <= pins
    text = (DEPLOY / "serve.Dockerfile").read_text()
    assert re.findall(r"^USER (.+)$", text, re.M) == ["1000"]


def file_lines() -> list[list[str]]:
    """Returns the commands in the deployment files."""
    ray_up, compose = load("ray-up.yaml"), load("compose.yaml")
    shell = [load("rayjob.yaml")["spec"]["entrypoint"]]
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        shell += ray_up[key]
    for name in RAY_OBJECTS:
        cluster = cluster_of(load(name))
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            options = [f"--{key}={value}" for key, value in group["rayStartParams"].items()]
            shell.append(" ".join(["ray start", *options]))
    images = [(DEPLOY / name).read_text() for name in ("Dockerfile", "serve.Dockerfile")]
    commands = [json.loads(re.findall(r"^CMD (.+)$", text, re.M)[0]) for text in images]
    return [
        *commands,
        compose["services"]["mlflow"]["command"],
        *(line for item in shell for line in shell_lines(item)),
    ]


def test_commands_in_the_files_exist() -> None:
    lines = file_lines()
    assert {Path(words[0]).name for words in lines} >= {"clozeline", "ray", "mlflow", "pip"}
    for words in lines:
        check(words)


def test_commands_on_the_page_exist() -> None:
    lines = page_lines(PAGE)
    assert {Path(words[0]).name for words in lines} >= {"make", "ray", "docker", "kubectl"}
    for words in lines:
        check(words)
    inline = inline_lines(PAGE)
    assert len(inline) >= 4
    for words in inline:
        check(words, whole=False)


def test_links_on_the_page_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE.read_text())
    assert len(links) >= 2
    assert all((PAGE.parent / link.partition("#")[0]).exists() for link in links)


@pytest.mark.parametrize(
    "line",
    [
        "clozeline runs demo",
        "clozeline run demo --stor /clozeline/store",
        "clozeline run",
        "PATH=x:$PATH ray start --heads",
        "ray job send -- clozeline run demo",
        "ray job submit --address http://127.0.0.1:8265 -- clozeline run demo --form x",
        "mlflow server --artifact-destination s3://mlflow",
        "make pipelines",
        "make pipeline ADRESS=auto",
        "true && kubectl apply --filename cluster/deploy/nowhere.yaml",
        "curl http://127.0.0.1",
    ],
)
def test_check_finds_a_wrong_command(line: str) -> None:
    with pytest.raises(NoSuchCommandError):
        for words in shell_lines(line):
            check(words)


def test_check_finds_a_wrong_inline_option() -> None:
    with pytest.raises(NoSuchCommandError, match="has no option --adress"):
        check(["clozeline", "run", "--adress"], whole=False)
