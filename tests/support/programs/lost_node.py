"""A cluster of several nodes in a process of its own, one of which loses its raylet while it trains."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def main(store: Path, counter: Path, fault: Path, what: str) -> None:
    """Runs the three trainings on a node, of which in the midst of the second `what` dies.

    Either its raylet alone, and the worker is an orphan that Ray knows nothing of; or the whole machine with the
    worker, and another one takes its place.
    """
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["CLOZELINE_CHECKPOINT_EVERY_S"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    from cluster.run import events
    from cluster.run.result import RunOptions
    from cluster.run.scheduler import execute
    from cluster.store.location import open_store
    from tests.support.training_steps import chain

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    # Connected while there is only the head, for a driver whose own raylet dies is dead as well.
    ray.init(address=cluster.address, log_to_driver=False)
    doomed = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()

    def kill() -> None:
        while not fault.read_text().isdigit():
            time.sleep(0.05)
        for process in doomed.all_processes["raylet"]:
            os.kill(process.process.pid, signal.SIGKILL)
        if what == "machine":
            os.kill(int(fault.read_text()), signal.SIGKILL)
            return
        while sum(node["Alive"] for node in ray.nodes()) > 1:
            time.sleep(0.05)
        fault.unlink()

    def replace(event: events.Event) -> None:
        if isinstance(event, events.StepFailed) and fault.exists():
            cluster.add_node(num_cpus=1)
            fault.unlink()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    options = RunOptions(address=cluster.address, poll_s=0.05, backoff_s=0.5)
    outcome = execute([chain(counter, fault)], open_store(store), options, on_event=replace)
    killer.join()
    about = {
        "done": sorted(outcome.executed + outcome.cached),
        "attempts": {name: manifest.attempt for name, manifest in outcome.manifests.items()},
        "errors": [str(error) for error in outcome.errors.values()],
    }
    ray.shutdown()
    cluster.shutdown()
    sys.stdout.write(f"\noutcome {json.dumps(about)}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4])
