"""A process that runs many steps keeps nothing of one for the next."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from cluster.parallel.process_state import restored_process, set_num_threads
from cluster.store.location import open_store
from tests.support.paths import ROOT
from tests.support.result_numbers import numbers_of


def test_environment_folder_and_torch_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET_BEFORE", "1")
    monkeypatch.setenv("REMOVED_INSIDE", "1")
    before, folder = dict(os.environ), Path.cwd()
    with pytest.raises(ValueError), restored_process():
        os.environ |= {"SET_BEFORE": "2", "SET_INSIDE": "3"}
        del os.environ["REMOVED_INSIDE"]
        os.chdir(tmp_path)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        raise ValueError
    assert dict(os.environ) == before and Path.cwd() == folder
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled()


def test_libraries_that_are_loaded_use_the_threads_of_the_step() -> None:
    with threadpool_limits(None):
        for number in (2, 1, 2):
            set_num_threads(number)
            assert torch.get_num_threads() == number
            assert all(pool["num_threads"] <= number for pool in threadpool_info())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_model_step_computes_the_same_in_a_reused_process(smoke_run: tuple[Path, str], tmp_path: Path) -> None:
    """One process runs all of them, in another order than the workers of the smoke run."""
    shutil.copytree(smoke_run[0], tmp_path / "store", symlinks=True)
    finished = subprocess.run(
        [sys.executable, "-m", "tests.support.programs.reused_worker", str(tmp_path / "store")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found = json.loads(next(line for line in finished.stdout.splitlines() if line.startswith("result "))[7:])
    store = open_store(smoke_run[0])
    assert len(found) > 6
    for name, step in found.items():
        expected = json.loads(json.dumps(numbers_of(next(store.results(name)))))
        assert step["numbers"] == expected, name
        assert step["changed"] == [], name
        assert step["threads"][-1] <= max(1, int(step["cpus"])), name
