"""A Ray cluster of three machines. The graph runs undisturbed, then again while machines are lost."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ |= {"RAY_AUTH_MODE": "disabled", "CLOZELINE_CHECKPOINT_EVERY_S": "0"}

import ray
from ray.cluster_utils import Cluster

from cluster.run import events
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.store.location import open_store
from stages.common.engine import ENGINE
from tests.support.preemptible_steps import FAULTS, graph

MOMENTS = {
    "pet-trained": "train/loss 4, worker 0",
    "pet-labeling": "unlabeled examples, worker 0",
    "soft_labels": "table weights, worker 0",
    "partitioned": "train/loss 4, worker 1",
    "preempted": "train/loss 4, worker 1",
    "elastic": "train/loss 4, worker 1",
}
"""Step -> when a machine is lost, and of which worker. The worker of `preempted` gets SIGTERM instead. Another machine
joins, except for `elastic`.
"""


def main(folder: Path) -> None:
    """Runs the graph twice, in the stores `undisturbed` and `disturbed` of the folder."""
    faults = folder / "faults"
    os.environ[FAULTS] = str(faults)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    # Connect while there is only the head: a driver whose own machine is lost is dead, too.
    ray.init(address=cluster.address, log_to_driver=False)
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    options = RunOptions(engine=ENGINE, address=cluster.address, poll_s=0.05, backoff_s=0.5, max_parallel=1)
    undisturbed = execute(graph(folder), open_store(folder / "undisturbed"), options)
    summary: dict[str, Any] = {"undisturbed": _summary(undisturbed)}
    for path in faults.glob("*.workers"):
        path.unlink()
    for name, moment in MOMENTS.items():
        (faults / name).write_text(moment)
    threading.Thread(target=_kill, args=(cluster, faults), daemon=True).start()

    def on_event(event: events.Event) -> None:
        if not isinstance(event, events.StepFailed) or event.step in summary:
            return
        summary[event.step] = event.error.problem
        # Only the main thread may add a machine.
        if event.step not in ("preempted", "elastic"):
            cluster.add_node(num_cpus=1)

    disturbed = execute(graph(folder), open_store(folder / "disturbed"), options, on_event=on_event)
    summary["disturbed"] = _summary(disturbed)
    summary["workers"] = {path.stem: path.read_text().split() for path in faults.glob("*.workers")}
    ray.shutdown()
    cluster.shutdown()
    sys.stdout.write(f"\nresult {json.dumps(summary)}\n")


def _summary(result: Any) -> dict[str, Any]:
    return {
        "errors": {name: str(error) for name, error in result.errors.items()},
        "attempts": {name: manifest.attempt for name, manifest in result.manifests.items()},
        "files": {
            name: f"{name}/{manifest.fingerprint}/{manifest.folder}" for name, manifest in result.manifests.items()
        },
    }


def _kill(cluster: Any, faults: Path) -> None:
    """Removes the machines of workers that wait for it."""
    while True:
        for path in faults.glob("*.waiting"):
            words = path.read_text().split()
            if len(words) < 2:
                continue
            if path.stem == "preempted":
                os.kill(int(words[0]), signal.SIGTERM)
                _wait_for(faults.parent / "disturbed" / "preempted", "*/work/.stop_requested")
            else:
                _remove(cluster, int(words[0]), words[1])
            path.unlink()
        time.sleep(0.05)


def _wait_for(folder: Path, pattern: str) -> None:
    while not list(folder.glob(pattern)):
        time.sleep(0.05)


def _remove(cluster: Any, process: int, node_id: str) -> None:
    node = next(node for node in cluster.worker_nodes if node.node_id == node_id)
    for raylet in node.all_processes["raylet"]:
        os.kill(raylet.process.pid, signal.SIGKILL)
    os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
