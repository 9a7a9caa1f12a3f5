"""A Ray cluster of several nodes. One node loses its raylet while it trains."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

os.environ |= {"RAY_AUTH_MODE": "disabled", "CLOZELINE_CHECKPOINT_EVERY_S": "0"}

import ray
from ray.cluster_utils import Cluster

from cluster.run import events
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.store.location import open_store
from stages.common.engine import ENGINE
from tests.support.training_steps import chain


def main(store: Path, counter: Path, fault: Path, lost: str) -> None:
    """Runs three training steps on one node. During the second the raylet or the entire machine is lost.

    Without its raylet the worker is an orphan, which Ray does not know anymore. With the machine the worker is killed,
    too. Then another machine joins.
    """
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    # Connect while there is only the head: a driver whose own raylet is killed is dead, too.
    ray.init(address=cluster.address, log_to_driver=False)
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()

    def kill() -> None:
        while not fault.read_text().isdigit():
            time.sleep(0.05)
        for process in node.all_processes["raylet"]:
            os.kill(process.process.pid, signal.SIGKILL)
        if lost == "machine":
            os.kill(int(fault.read_text()), signal.SIGKILL)
            return
        while sum(node["Alive"] for node in ray.nodes()) > 1:
            time.sleep(0.05)
        fault.unlink()

    def replace(event: events.Event) -> None:
        if isinstance(event, events.Warned):  # no machine has a CPU anymore
            cluster.add_node(num_cpus=1)
        if isinstance(event, events.StepFailed) and fault.exists():
            cluster.add_node(num_cpus=1)
            fault.unlink()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    options = RunOptions(engine=ENGINE, address=cluster.address, poll_s=0.05, backoff_s=0.5)
    result = execute([chain(counter, fault)], open_store(store), options, on_event=replace)
    killer.join()
    summary = {
        "finished": sorted(result.executed + result.cached),
        "attempts": {name: manifest.attempt for name, manifest in result.manifests.items()},
        "errors": [str(error) for error in result.errors.values()],
    }
    ray.shutdown()
    cluster.shutdown()
    sys.stdout.write(f"\nresult {json.dumps(summary)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
