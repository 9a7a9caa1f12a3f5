"""Runs two steps, and prints which files and variables their worker has and how they ended.

The second argument is `local` for a Ray of the run, or `running` for one that was started before, by someone else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.run.ray_session import FORWARDED, OBJECT_STORE_BYTES
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.steps.step import Resources, Step
from cluster.store.location import open_store
from stages.common.engine import ENGINE
from stages.probe.config import ContrastiveConfig
from tests.support.steps import function_name, imports, toy, variables


@contextmanager
def running_ray() -> Iterator[str]:
    """Starts Ray with an environment of its own. Yields its address."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    own = {name: os.environ.pop(name) for name in ("PYTHONPATH", *FORWARDED) if name in os.environ}
    from ray.cluster_utils import Cluster  # (it reads the environment that was set above)

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    os.environ.update(own)
    try:
        yield str(cluster.address)
    finally:
        cluster.shutdown()


def main(store: Path, address: str | None) -> None:
    """Runs the steps."""
    options = RunOptions(engine=ENGINE, address=address, num_cpus=None if address else 1)
    # A worker unpickles the config, whose module is in `stages`, before it calls anything of the program.
    config = ContrastiveConfig()
    first = Step(name="imports", run=function_name(imports), config=config, resources=Resources(cpus=1))
    result = execute([first, toy("variables", fn=variables)], open_store(store), options)
    errors = [str(error) for error in result.errors.values()]
    results = {name: manifest.result for name, manifest in result.manifests.items()}
    sys.stdout.write(f"\nresult {json.dumps({'results': results, 'errors': errors})}\n")


if __name__ == "__main__":
    if sys.argv[2:] in ([], ["local"]):
        main(Path(sys.argv[1]), None)
    else:
        with running_ray() as running:
            main(Path(sys.argv[1]), running)
