"""Ray on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.run.ray_session import FORWARDED, WORKER_ENVIRONMENT, worker_variables
from tests.support.paths import ROOT

PROGRAM = ROOT / "tests" / "support" / "programs" / "foreign_folder.py"


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ray", ["local", "running"])
def test_workers_of_a_run_in_a_folder_with_foreign_packages_use_their_own_code(tmp_path: Path, ray: str) -> None:
    for name in ("cluster", "stages", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('code of someone else')\n")
    variables = {name: str(number) for number, name in enumerate(FORWARDED, 1)}
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "store"), ray],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    line = next(line for line in process.stdout.splitlines() if line.startswith("result "))
    result = json.loads(line.removeprefix("result "))
    assert result["errors"] == []
    own = {name: str(ROOT / name / "__init__.py") for name in ("cluster", "stages", "pipelines")}
    assert result["results"] == {"imports": own, "variables": variables}


def test_variables_that_the_job_of_a_driver_sets_are_not_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"runtime_env": {"env_vars": {"CLOZELINE_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}}}
    for name in FORWARDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOZELINE_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert worker_variables() == {**WORKER_ENVIRONMENT, "CLOZELINE_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    rest = {**WORKER_ENVIRONMENT, "HF_HUB_OFFLINE": "1"}
    del rest["TOKENIZERS_PARALLELISM"]
    assert worker_variables() == rest


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
