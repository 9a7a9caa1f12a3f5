"""Runs one step of each kind of the smoke recipe, one after the other, in this process, as a reused worker does."""

from __future__ import annotations

import json
import os
import sys

from threadpoolctl import threadpool_info

from cluster.run.step_worker import run_step
from cluster.steps.task_spec import TaskSpec, input_indices
from cluster.store.lease import Lease, Owner, new_token
from cluster.store.manifest import Manifest
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.request import load_request
from stages.common.assets.cache import IDENTIFY
from stages.common.engine import ENGINE
from tests.support.result_numbers import numbers_of


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
        spec = TaskSpec(
            step=line.name, run=line.step.run, config=line.step.config, key=line.key, store=request.store.url,
            roles=input_indices(line.step, tuple(item.step for item in upstream)), forced=True,
            lease=Lease(owner=Owner.current(), token=new_token()), resources=line.step.resources, engine=ENGINE,
            files=line.step.files, identify=IDENTIFY, provenance={}, key_options=planned.key_options,
        )  # fmt: skip
        outcome = run_step(spec, lambda batch: True, upstream)
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
