"""A Ray cluster of two nodes, one of which is slow. The same fan-out runs once per scenario."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"RAY_AUTH_MODE": "disabled"}

import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from cluster.run import events
from cluster.run.ray_session import free_machines
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.run.speculation import Speculation
from cluster.store.local import LocalStore
from stages.common.engine import ENGINE
from tests.support.raced_steps import IS_SLOW, KIND, SLOW_NODE, steps

SCENARIOS = {
    "slow": ("wait", ""),
    "overtaken": ("wait:started", "write:started wait"),
    "failing": ("wait:failing wait:reported", "write:failing fail"),
    "alone": ("wait:started fail", "write:started wait:reported"),
}
"""Name -> what the attempt on the slow node does, and what the second attempt of the same step does."""
RULE = Speculation(kinds=frozenset({KIND}), factor=2.0, min_s=1.0, min_finished=3)


def main(folder: Path) -> None:
    """Runs all scenarios, each with its own store."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    slow_node = cluster.add_node(num_cpus=1).node_id
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    summary = {name: _run(folder / name, slow_node, cluster.address, *words) for name, words in SCENARIOS.items()}
    ray.shutdown()
    cluster.shutdown()
    sys.stdout.write(f"\nresult {json.dumps(summary)}\n")


def _run(folder: Path, slow_node: str, address: str, slow: str, fast: str) -> dict[str, Any]:
    folder.mkdir()
    (folder / SLOW_NODE).write_text(slow_node)
    again, warnings, failed = [], [], []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.StepStartedAgain):
            again.append([event.step, event.attempt, event.ratio])
        elif isinstance(event, events.StepFailed):
            failed.append(event.error.error)
        elif isinstance(event, events.Warned):
            warnings.append(event.problem)
            (folder / "reported").touch()

    store = LocalStore(folder / "store")
    options = RunOptions(engine=ENGINE, address=address, poll_s=0.05, speculation=RULE)
    result = execute(steps(folder, slow=slow, fast=fast), store, options, on_event=watch)
    return {
        "squares": {name: manifest.result["square"] for name, manifest in sorted(result.manifests.items())},
        "attempts": {name: step.attempts for name, step in sorted(result.steps.items())},
        "committed": {name: manifest.attempt for name, manifest in sorted(result.manifests.items())},
        "files": {
            name: sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            for name, item in sorted(result.steps.items())
            for folder in [store.folder(name, item.fingerprint)]
        },
        "folders": {name: manifest.folder for name, manifest in sorted(result.manifests.items())},
        "runs": {
            path.name.removeprefix("attempts-"): [line.split(" ") for line in path.read_text().splitlines()]
            for path in sorted(folder.glob("attempts-*"))
        },
        "is_slow": (folder / IS_SLOW).read_text(),
        "is_interrupted": (folder / "interrupted").exists(),
        "again": again,
        "warnings": warnings,
        "failed": failed,
        "failures": [name for name, item in result.steps.items() if store.failure(name, item.fingerprint)],
        "notes": [path.name for path in (store.root / "logs" / ".open").iterdir()],
        "reservations": [item for item in placement_group_table().values() if item["state"] != "REMOVED"],
        "free_cpus": _free_cpus(),
        "wall_s": result.wall_s,
    }


def _free_cpus() -> float:
    """Returns the CPUs that no task uses, at the latest after some seconds, as what is known of them is delayed."""
    end = time.monotonic() + 15
    while (cpus := sum(room.cpus for room in free_machines().values())) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    return cpus


if __name__ == "__main__":
    main(Path(sys.argv[1]))
