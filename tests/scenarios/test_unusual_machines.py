"""Machines on which something usual is missing. `docs/how-to/runs.md` has a table of the outcomes; each row is a test.

Full disks and clocks that jump are in `test_faults_store.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

ISOLATED = ("unshare", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc")
"""Runs a command with its own mounts and processes."""
needs_namespaces = pytest.mark.skipif(
    subprocess.run([*ISOLATED, "true"], capture_output=True, check=False).returncode != 0,
    reason="this user may not create namespaces",
)
IS_DEAD = """
import os, sys
from dataclasses import replace
from cluster.store.lease import Owner
pid, started = int(sys.argv[1]), sys.argv[2]
owner = replace(Owner.current(), pid=pid, started=started)
print(os.path.exists(f"/proc/{pid}/stat"), owner.is_dead(), replace(owner, pid=999999).is_dead())
"""
HIDDEN = """
setpriv --reuid 1001 --regid 1001 --clear-groups sleep 60 &
sleep 0.5
started=$(cut -d' ' -f22 /proc/$!/stat)
mount -t proc -o hidepid=2 proc /proc || exit 77
setpriv --regid 1002 --clear-groups --bounding-set -sys_ptrace "$@" $! $started
kill $!
"""
WITHOUT_SHARED_MEMORY = """
mkdir "$0/dev" && mount -t tmpfs tmpfs "$0/dev" || exit 1
for name in null zero full random urandom; do touch "$0/dev/$name" && mount --bind /dev/$name "$0/dev/$name"; done
ln -s /proc/self/fd "$0/dev/fd" && mount --rbind "$0/dev" /dev && test ! -e /dev/shm && exec "$@"
"""


def environment(**variables: str) -> dict[str, str]:
    own = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        own.pop(name, None)
    return own


def result_of_run(command: list[str], variables: dict[str, str]) -> dict[str, Any]:
    """Runs a program that executes one step. Returns what it prints."""
    process = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=280, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    line = next(line for line in process.stdout.splitlines() if line.startswith("result "))
    result: dict[str, Any] = json.loads(line.removeprefix("result "))
    return result


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes of other users")
@needs_namespaces
def test_driver_that_hidepid_hides_counts_as_alive() -> None:
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", HIDDEN, "sh"]
    process = subprocess.run(
        [*command, sys.executable, "-c", IS_DEAD], env=environment(), capture_output=True, text=True, check=False
    )
    if process.returncode == 77:
        pytest.skip("this system cannot mount proc with hidepid")
    assert process.stdout.split() == ["False", "False", "True"], process.stdout + process.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_run_needs_no_writable_home(tmp_path: Path) -> None:
    """Not even root can write to /proc."""
    program = str(ROOT / "tests" / "support" / "programs" / "foreign_folder.py")
    result = result_of_run([sys.executable, program, str(tmp_path / "store")], environment(HOME="/proc"))
    assert result["errors"] == []


def test_fetching_into_a_home_that_is_read_only_names_the_variable(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from pipelines.cli.app import main; main()", "run", "smoke"]
    variables = environment(HOME="/proc", CLOZELINE_CACHE="")
    process = subprocess.run(
        [*command, "--store", str(tmp_path / "store")], env=variables, capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
    assert "/proc/.cache/clozeline" in process.stderr and "CLOZELINE_CACHE" in process.stderr


@needs_namespaces
def test_missing_shared_memory_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    program = str(ROOT / "tests" / "support" / "programs" / "foreign_folder.py")
    command = [*ISOLATED, "sh", "-c", WITHOUT_SHARED_MEMORY, str(tmp_path), sys.executable, program]
    process = subprocess.run(
        [*command, str(tmp_path / "store")], env=environment(), capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "this machine has no /dev/shm, which Ray needs. Mount a tmpfs there" in process.stderr
