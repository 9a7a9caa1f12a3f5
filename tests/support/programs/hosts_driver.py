"""The driver of a run on several hosts: `hosts_driver.py STORE ADDRESS all|members WAITS_ON`.

Prints `waiting` when a sub-model waits for the end of its host, and the result at the end.
"""

from __future__ import annotations

import json
import sys

from cluster.run import events
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.store.location import open_store
from stages.common.engine import ENGINE
from tests.support.host_steps import WAITING, members, steps
from tests.support.hosts import FILES


def main(store: str, address: str, names: str, waits_on: str) -> None:
    """Runs the steps."""
    leaves = members(FILES, waits_on) if names == "members" else steps(FILES)

    def on_event(event: events.Event) -> None:
        sys.stderr.write(f"{event}\n")
        if isinstance(event, events.StepProgress) and event.info.get("phase") == WAITING:
            sys.stdout.write("waiting\n")
            sys.stdout.flush()

    options = RunOptions(engine=ENGINE, address=address, poll_s=0.1, backoff_s=0.5)
    result = execute(leaves, open_store(store), options, on_event=on_event)
    summary = {
        "errors": {name: str(error) for name, error in result.errors.items()},
        "fingerprints": {name: item.fingerprint for name, item in result.steps.items()},
        "attempts": {name: manifest.attempt for name, manifest in result.manifests.items()},
        "hosts": {name: manifest.host for name, manifest in result.manifests.items()},
    }
    sys.stdout.write(f"result {json.dumps(summary)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
