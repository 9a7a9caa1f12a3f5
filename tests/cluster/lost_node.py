"""A cluster of several nodes in a process of its own, one of which loses its raylet while it trains."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def main(store: Path, counter: Path, fault: Path) -> None:
    """Runs the three trainings on a node that dies in the midst of the second; another one takes its place."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["CLOZELINE_CHECKPOINT_EVERY_S"] = "0"
    import ray
    from ray.cluster_utils import Cluster
    from training_steps import chain

    from cluster import events
    from cluster.outcome import Options
    from cluster.scheduler import execute
    from cluster.store import Store

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    doomed = cluster.add_node(num_cpus=2)

    def kill() -> None:
        while not fault.read_text().isdigit():
            time.sleep(0.05)
        for process in doomed.all_processes["raylet"]:
            os.kill(process.process.pid, signal.SIGKILL)

    def replace(event: events.Event) -> None:
        if isinstance(event, events.StepFailed) and fault.exists():
            cluster.add_node(num_cpus=1)
            fault.unlink()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    options = Options(address=cluster.address, poll_s=0.05, backoff_s=0.5)
    outcome = execute([chain(counter, fault)], Store.open(store), options, on_event=replace)
    killer.join()
    about = {
        "executed": outcome.executed,
        "attempts": {name: manifest.attempt for name, manifest in outcome.manifests.items()},
        "errors": [str(error) for error in outcome.errors.values()],
    }
    ray.shutdown()
    cluster.shutdown()
    sys.stdout.write(f"\noutcome {json.dumps(about)}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
