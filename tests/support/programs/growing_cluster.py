"""A Ray cluster whose head has no CPUs. A machine with one CPU joins after the run has started."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {"RAY_AUTH_MODE": "disabled"}

import ray
from ray.cluster_utils import Cluster

from cluster.run import events
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.steps.step import Resources
from cluster.store.location import open_store
from stages.common.engine import ENGINE
from tests.support.steps import toy


def main(store: Path) -> None:
    """Runs three steps, one of which requests more CPUs than the machine has."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    running, most, warnings = set[str](), 0, []

    def watch(event: events.Event) -> None:
        nonlocal most
        if isinstance(event, events.Warned):
            warnings.append(event.problem)
            cluster.add_node(num_cpus=1)
        elif isinstance(event, events.StepProgress):
            running.add(event.step)
            most = max(most, len(running))
        elif isinstance(event, events.StepFinished):
            running.discard(event.step)

    steps = [toy(f"x/{index}", index, pause_s=1.0, resources=Resources(cpus=1 + index)) for index in range(3)]
    options = RunOptions(engine=ENGINE, address=cluster.address, poll_s=0.05)
    result = execute(steps, open_store(store), options, on_event=watch)
    summary = {"executed": sorted(result.executed), "most": most, "warnings": warnings}
    ray.shutdown()
    cluster.shutdown()
    sys.stdout.write(f"\nresult {json.dumps(summary)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
