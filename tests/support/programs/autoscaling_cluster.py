"""A Ray cluster whose autoscaler adds machines on demand, and removes them when they are idle.

The machines are Ray's fake ones: processes of this machine. The cluster needs its own process namespace, because
`ray stop` ends every Ray that it finds. `ray.cluster_utils.AutoscalingCluster` does the same, but needs a file that the
published package lacks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "CLOZELINE_LARGEST_MACHINE": "1,1",
    "RAY_TMPDIR": sys.argv[2],
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}

import ray

from cluster.run import events
from cluster.run.ray_session import capacity
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.steps.step import Resources
from cluster.store.location import open_store
from stages.common.engine import ENGINE
from tests.support.steps import toy

MACHINES = {
    name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": number}
    for name, resources, number in (
        ("cpu", {"CPU": 1}, 2),
        ("gpu", {"CPU": 1, "GPU": 1}, 1),
        ("ray.head.default", {"CPU": 0}, 0),
    )
}
CONFIG = {
    "cluster_name": "fake",
    "max_workers": 3,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": MACHINES,
    "head_node_type": "ray.head.default",
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 1.0,
    "docker": {},
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


def num_machines() -> int:
    """Returns the number of machines with a CPU."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def main(store: Path) -> None:
    """Runs steps that need machines which do not exist yet, and one that no machine will ever run."""
    config = store.parent / "cluster.json"
    config.write_text(json.dumps(CONFIG))
    subprocess.run(["ray", "start", "--head", "--num-cpus=0", f"--autoscaling-config={config}"], check=True)
    try:
        ray.init("auto", log_to_driver=False)
        before, most, queued = num_machines(), 0, {}

        def watch(event: events.Event) -> None:
            nonlocal most
            if isinstance(event, events.StepQueued):
                queued[event.step] = event.waits_for
            most = max(most, num_machines())

        steps = [toy(f"x/{index}", index, pause_s=1.0) for index in range(4)]
        steps.append(toy("gpu", resources=Resources(gpus=1)))
        steps.append(toy("two", resources=Resources(gpus=2)))
        options = RunOptions(engine=ENGINE, address="auto", poll_s=0.05)
        result = execute(steps, open_store(store), options, on_event=watch)
        end = time.monotonic() + 120
        while capacity().cpus and time.monotonic() < end:
            time.sleep(0.2)
        summary = {
            "executed": sorted(result.executed),
            "errors": {name: error.error for name, error in result.errors.items()},
            "machines": [before, most, num_machines()],
            "queued": queued,
        }
        ray.shutdown()
    finally:
        subprocess.run(["ray", "stop", "--force"], check=True)
    sys.stdout.write(f"\nresult {json.dumps(summary)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
