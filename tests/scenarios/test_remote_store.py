"""A pipeline on a remote store: another machine uses its results."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.s3_helpers import URL, Proxy, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DRIVER = """
import sys
from tests.support.steps import toy
from cluster.run.result import RunOptions
from stages.common.engine import ENGINE
from cluster.run.scheduler import execute
from cluster.store.location import open_store

data = toy("data", 1)
parts = tuple(toy(f"pet/p/{index}", index, base=data) for index in range(2))
leaves = [toy("ensemble", 100, parts=parts), *(toy(name, fail="error") for name in sys.argv[2:])]
result = execute(leaves, open_store(sys.argv[1]), RunOptions(engine=ENGINE, keep_going=True, num_cpus=2))
print(sorted(result.executed), sorted(result.cached), result.manifests["ensemble"].result["total"])
print(*(error.log for error in result.errors.values()))
"""


def test_another_machine_uses_the_results(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = opened()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run_driver(*failing: str) -> list[str]:
        driver = subprocess.run(
            [sys.executable, "-c", DRIVER, URL, *failing], capture_output=True, text=True, check=False
        )
        assert driver.returncode == 0, driver.stderr
        return driver.stdout.splitlines()

    first, log = run_driver("bad")
    assert first == "['data', 'ensemble', 'pet/p/0', 'pet/p/1'] [] 103"
    assert log.startswith(f"{URL}/logs/bad/")
    assert b"printed by another program" in store.objects.read(log.removeprefix(f"{URL}/"))
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "another machine"))
    assert run_driver()[0] == "[] ['data', 'ensemble', 'pet/p/0', 'pet/p/1'] 103"
