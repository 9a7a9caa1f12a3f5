"""Runs steps of the smoke recipe in this process, as a worker does: one of each kind, or only the one that is named.

reused_worker.py STORE [STEP]
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading

from threadpoolctl import threadpool_info

from cluster.store.manifest import Manifest
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.request import load_request
from tests.support.result_numbers import numbers_of
from tests.support.single_steps import run_alone


def main(store: str, only: str = "") -> None:
    """Prints what each step computed, and the state of the process before and after it."""
    request = load_request("smoke", [], store)
    planned = plan_recipe(request.config, request.store)
    # The last ones first, so that no step runs in the state in which it ran before.
    one_of_each = {line.step.kind: line for line in planned}
    found = {}
    for line in reversed(one_of_each.values()):
        if only not in ("", line.name):
            continue
        before = dict(os.environ)
        upstream = tuple(planned.manifests[name] for name in dict.fromkeys(item.name for item in line.step.upstream()))
        outcome = run_alone(line, request.store, upstream, planned.key_options)
        assert isinstance(outcome, Manifest), outcome
        found[line.name] = {
            "numbers": numbers_of(outcome),
            "environment": before,
            "changed": sorted(name for name in before | os.environ if before.get(name) != os.environ.get(name)),
            "pools": {pool["user_api"]: pool["num_threads"] for pool in threadpool_info()},
            "cpus": line.step.resources.cpus,
            # Numbers in names count the threads of a process.
            "threads": sorted(re.sub(r"\d+", "N", thread.name) for thread in remaining_threads()),
            "gpu_bytes": gpu_bytes(),
        }
    sys.stdout.write(f"\nresult {json.dumps(found)}\n")


def remaining_threads() -> list[threading.Thread]:
    """Returns the threads of this process, without those that are about to end because the step has ended."""
    for thread in threading.enumerate():
        if thread.name == "watchdog":
            thread.join(10)
    return threading.enumerate()


def gpu_bytes() -> tuple[int, int]:
    """Returns the memory of tensors, and what torch keeps for others; (0, 0) without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0, 0
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()


if __name__ == "__main__":
    main(*sys.argv[1:])
