"""A cluster of three machines in a process of its own: the graph runs undisturbed, then machines die under it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

MOMENTS = {
    "pet-trained": "train/loss 4, worker 0",
    "pet-labelling": "unlabelled texts, worker 0",
    "soft_labels": "table weights, worker 0",
    "spread": "train/loss 4, worker 1",
    "told": "train/loss 4, worker 1",
    "elastic": "train/loss 4, worker 1",
}
"""Step -> when the machine of which worker dies. The worker of the step `told` gets SIGTERM and goes on; for all but
`elastic` another machine comes.
"""


def main(folder: Path) -> None:
    """Runs both; the stores `calm` and `stormy` are left in the folder."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "CLOZELINE_CHECKPOINT_EVERY_S": "0", "DOOM": str(folder / "doom")}
    import ray
    from ray.cluster_utils import Cluster

    from cluster.run import events
    from cluster.run.result import RunOptions
    from cluster.run.scheduler import execute
    from cluster.store.location import open_store
    from tests.support.preemptible_steps import graph

    doom = folder / "doom"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    # connected while there is only the head, for a driver whose own machine dies is dead as well
    ray.init(address=cluster.address, log_to_driver=False)
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    options = RunOptions(address=cluster.address, poll_s=0.05, backoff_s=0.5, max_parallel=1)
    found: dict[str, Any] = {"calm": _about(execute(graph(folder), open_store(folder / "calm"), options))}
    for path in doom.glob("*.workers"):
        path.unlink()
    for name, moment in MOMENTS.items():
        (doom / name).write_text(moment)
    threading.Thread(target=_kill, args=(cluster, doom), daemon=True).start()

    def hear(event: events.Event) -> None:
        if not isinstance(event, events.StepFailed) or event.step in found:
            return
        found[event.step] = event.error.problem
        # here, for only the main thread may start one
        if event.step not in ("told", "elastic"):
            cluster.add_node(num_cpus=1)

    found["stormy"] = _about(execute(graph(folder), open_store(folder / "stormy"), options, on_event=hear))
    found["workers"] = {path.stem: path.read_text().split() for path in doom.glob("*.workers")}
    ray.shutdown()
    cluster.shutdown()
    sys.stdout.write(f"\noutcome {json.dumps(found)}\n")


def _about(outcome: Any) -> dict[str, Any]:
    return {
        "errors": {name: str(error) for name, error in outcome.errors.items()},
        "attempts": {name: manifest.attempt for name, manifest in outcome.manifests.items()},
        "files": {name: manifest.fingerprint for name, manifest in outcome.manifests.items()},
    }


def _kill(cluster: Any, doom: Path) -> None:
    """Takes the machines of those who wait for it."""
    while True:
        for path in doom.glob("*.met"):
            words = path.read_text().split()
            if len(words) < 2:
                continue
            if path.stem == "told":
                os.kill(int(words[0]), signal.SIGTERM)
                _wait_for(doom.parent / "stormy" / "told", "*/work/.stop_requested")
            else:
                _take(cluster, int(words[0]), words[1])
            path.unlink()
        time.sleep(0.05)


def _wait_for(folder: Path, pattern: str) -> None:
    while not list(folder.glob(pattern)):
        time.sleep(0.05)


def _take(cluster: Any, process: int, node_id: str) -> None:
    node = next(node for node in cluster.worker_nodes if node.node_id == node_id)
    for raylet in node.all_processes["raylet"]:
        os.kill(raylet.process.pid, signal.SIGKILL)
    os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
