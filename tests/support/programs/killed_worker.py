"""A driver and worker in one process, which is killed while its step runs. The step has printed a URL."""

from __future__ import annotations

import sys

from cluster.run.step_worker import run_step
from cluster.store.location import open_store
from tests.support.steps import task_spec, toy

if __name__ == "__main__":
    where, url = sys.argv[1:]
    run_step(task_spec(toy("killed", 1, fail=f"kill {url}"), open_store(where)), lambda batch: True, ())
