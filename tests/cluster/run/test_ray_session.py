"""Ray on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PROGRAM = ROOT / "tests" / "support" / "programs" / "foreign_folder.py"


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_workers_of_a_run_in_a_folder_with_foreign_packages_use_their_own_code(tmp_path: Path) -> None:
    for name in ("cluster", "stages", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('code of someone else')\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "store")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    line = next(line for line in process.stdout.splitlines() if line.startswith("result "))
    result = json.loads(line.removeprefix("result "))
    assert result["errors"] == []
    own = {name: str(ROOT / name / "__init__.py") for name in ("cluster", "stages", "pipelines")}
    assert result["files"]["imports"] == own


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", ["import ray", "pass"])
def test_sessions_work_also_if_ray_was_imported_before(first: str) -> None:
    code = f"""
{first}
import os
from cluster.run.ray_session import session
for number in range(2):
    with session(num_cpus=1):
        import ray
        print(ray.get(ray.remote(lambda: os.environ["RAY_AUTH_MODE"] + str(number)).remote()))
assert not [name for name in os.environ if name.startswith("RAY_AUTH")]
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.split() == ["token0", "token1"]
    assert process.stderr == ""
