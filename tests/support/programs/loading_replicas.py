"""`clozeline serve --ray` of a model that no replica can load to the end."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from cluster.run.ray_serve import ReplicaPlan
from pipelines.cli.views.terminal import console
from pipelines.serving.service.batcher import BatchingConfig
from pipelines.serving.service.replicas import ReplicaArguments, serve_replicas_until_stopped
from pipelines.serving.service.request_parsing import RequestLimits
from pipelines.serving.service.server import ListenAddress, ServiceConfig


class LoadsForever(dict[str, Any]):
    """A description that a replica never unpickles to the end. It creates the file `started` first."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_forever, (self["started"],)


def _load_forever(started: str) -> None:
    Path(started).touch()
    time.sleep(600)


def main(started: str) -> None:
    config = ServiceConfig(
        address=ListenAddress(port=0), limits=RequestLimits(), batching=BatchingConfig(), api_key=None, access_log=None
    )
    arguments = ReplicaArguments(folders=(), max_loaded_prompts=1, about=LoadsForever(started=started), config=config)
    plan = ReplicaPlan(min_replicas=1, max_replicas=1, target_requests=1, max_requests=1, num_cpus=0.5, num_gpus=0)
    serve_replicas_until_stopped(arguments, plan, None, console)


if __name__ == "__main__":
    from tests.support.programs import loading_replicas  # its class must be importable in a replica

    loading_replicas.main(sys.argv[1])
