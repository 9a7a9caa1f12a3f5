"""Runs one step of each kind of the smoke recipe, one after the other, in this process, as a reused worker does."""

from __future__ import annotations

import json
import os
import sys

from threadpoolctl import threadpool_info

from cluster.store.manifest import Manifest
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.request import load_request
from tests.support.result_numbers import numbers_of
from tests.support.single_steps import run_alone


def main(store: str) -> None:
    """Prints what each step computed, its threads, and the variables that it did not restore."""
    request = load_request("smoke", [], store)
    planned = plan_recipe(request.config, request.store)
    # The last ones first, so that no step runs in the state in which it ran before.
    one_of_each = {line.step.kind: line for line in planned}
    found = {}
    for line in reversed(one_of_each.values()):
        before = dict(os.environ)
        upstream = tuple(planned.manifests[name] for name in dict.fromkeys(item.name for item in line.step.upstream()))
        outcome = run_alone(line, request.store, upstream, planned.key_options)
        assert isinstance(outcome, Manifest), outcome
        found[line.name] = {
            "numbers": numbers_of(outcome),
            "threads": sorted({pool["num_threads"] for pool in threadpool_info()}),
            "cpus": line.step.resources.cpus,
            "changed": sorted(name for name in before | os.environ if before.get(name) != os.environ.get(name)),
        }
    sys.stdout.write(f"\nresult {json.dumps(found)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
