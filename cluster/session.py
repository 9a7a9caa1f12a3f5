"""Ray's beginning and end, in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import SessionError

OBJECT_STORE_BYTES = 300 * 1024 * 1024
# Manifests are all that goes through Ray, so it needs neither a dashboard nor much memory.
DRIVER_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
WORKER_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What the cluster has in all, and what its largest node has."""

    cpus: float
    gpus: float
    node_cpus: float
    node_gpus: float


@contextmanager
def session(address: str | None = None, num_cpus: int | None = None) -> Iterator[Capacity]:
    """A connection to Ray, for the length of a `with`. One that is there already is used, and left open.

    Args:
        address: A running Ray; by default that of `RAY_ADDRESS`, else one is started on this machine and ended again.
        num_cpus: CPUs of a Ray that is started here; by default those of the machine.

    Raises:
        SessionError: Ray cannot be started or reached.
    """
    # Left alone, a local Ray would turn tokens on and leave a token file in the person's home.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    if ray.is_initialized():
        yield capacity()
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    added = {**DRIVER_ENVIRONMENT, **WORKER_ENVIRONMENT, "PYTHONPATH": _python_path()}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        _init(address, num_cpus)
        yield capacity()
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def capacity() -> Capacity:
    """What the cluster has at this moment."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Capacity(
        cpus=sum(node.get("CPU", 0.0) for node in nodes),
        gpus=sum(node.get("GPU", 0.0) for node in nodes),
        node_cpus=max((node.get("CPU", 0.0) for node in nodes), default=0.0),
        node_gpus=max((node.get("GPU", 0.0) for node in nodes), default=0.0),
    )


def _init(address: str, num_cpus: int | None) -> None:
    import logging

    import ray

    local = address == "local"
    try:
        if local:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": WORKER_ENVIRONMENT},
            )
    except Exception as error:
        raise SessionError(
            f"Ray cannot be {'started on this machine' if local else f'reached at {address}'}: {error}.",
            "See the newest folder in /tmp/ray."
            if local
            else "Check the address, and that the Ray versions are alike.",
        ) from error


def _python_path() -> str:
    """Workers import stages from where the driver does."""
    root = str(Path(__file__).parent.parent)
    others = [item for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item and item != root]
    return os.pathsep.join([root, *others])
