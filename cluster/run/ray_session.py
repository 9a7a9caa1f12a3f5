"""Starts, connects and stops Ray.

Ray reads its environment variables when it is imported, so this module imports Ray only after it has set them.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from cluster.errors import SessionError
from cluster.run.capacity import Capacity, Machine, addable_machine
from cluster.run.own_code import ROOT
from cluster.store.retries import VARIABLE

OBJECT_STORE_BYTES = 300 * 1024 * 1024
"""Only manifests and batches of a stream go through Ray, so it needs little memory."""
SHARED_MEMORY = "/dev/shm"
PRELOADED = {"RAY_preload_python_modules": "cluster.run.worker_start"}
"""Of a Ray that is started here. With `_worker_starter` its first step would start 3 s later."""
WORKER_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "RAY_USAGE_STATS_ENABLED": "0", "GOMP_SPINCOUNT": "20000"}
"""`GOMP_SPINCOUNT`: threads of torch wait for each other actively. By default they do so for milliseconds, which takes
the processor from other programs, and from the thread that they wait for.
"""
FORWARDED = ("CLOZELINE_OFFLINE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", VARIABLE)
"""Variables of the driver that its workers need. Those of a local Ray inherit all."""


@contextmanager
def session(address: str | None = None, num_cpus: int | None = None) -> Iterator[Capacity]:
    """Connects to Ray inside a `with` block. An existing connection is used and left open.

    Args:
        address: Address of a running Ray. Default: that of `RAY_ADDRESS`, or a local Ray that is started and stopped.
        num_cpus: CPUs of a local Ray. Default: the CPUs of the machine.

    Raises:
        SessionError: Ray cannot be started or reached.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    added = {**WORKER_ENVIRONMENT, **PRELOADED, **_access(address), "PYTHONPATH": _python_path()}
    before = {name: os.environ.get(name) for name in (*added, "RAY_AUTH_MODE")}
    os.environ.update(added)
    import ray  # noqa: PLC0415  (it reads the environment that was set above)

    try:
        addable = None if address == "local" else addable_machine()
        if ray.is_initialized():
            yield capacity().with_addable(addable)
            return
        _init(address, num_cpus)
        try:
            yield capacity().with_addable(addable)
        finally:
            ray.shutdown()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def capacity() -> Capacity:
    """Returns what the cluster has now. Needs a session."""
    import ray  # noqa: PLC0415  (it reads the environment that `session` sets)

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Capacity(
        cpus=sum(node.get("CPU", 0.0) for node in nodes),
        gpus=sum(node.get("GPU", 0.0) for node in nodes),
        node_cpus=max((node.get("CPU", 0.0) for node in nodes), default=0.0),
        node_gpus=max((node.get("GPU", 0.0) for node in nodes), default=0.0),
    )


def free_machines() -> dict[str, Machine]:
    """Returns what no task uses now, by the ids of the machines. Needs a session."""
    from ray._private import state  # noqa: PLC0415  (Ray reads the environment that `session` sets)

    free = state.available_resources_per_node()
    return {node: Machine(cpus=room.get("CPU", 0.0), gpus=room.get("GPU", 0.0)) for node, room in free.items()}


def _init(address: str, num_cpus: int | None) -> None:
    import ray  # noqa: PLC0415  (it reads the environment that `session` sets)

    _silence_raylet()
    if address == "local" and sys.platform == "linux" and not Path(SHARED_MEMORY).is_dir():
        raise SessionError(
            f"this machine has no {SHARED_MEMORY}, which Ray needs.",
            "Mount a tmpfs there, or set --address to a Ray that was started with --plasma-directory.",
        )
    try:
        if address == "local":
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={
                    "env_vars": worker_variables(),
                    "worker_process_setup_hook": _worker_starter(),
                },
            )
    except Exception as error:
        ray.shutdown()
        if address == "local":
            problem, remedy = "Ray cannot be started on this machine", "Read the logs in the newest folder in /tmp/ray."
        else:
            problem = f"Ray cannot be reached at {address}"
            remedy = "Check the address, that both have the same version of Ray, and the token (RAY_AUTH_TOKEN)."
        raise SessionError(f"{problem}: {error}.", remedy) from error


def _access(address: str) -> dict[str, str]:
    """Returns environment variables that restrict access. A local Ray listens to this machine and one token only.

    Ray executes any code that its ports receive. By default it listens to the entire network and writes a token file
    to the user's home.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    if address != "local":
        has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        return {"RAY_AUTH_MODE": "token" if has_token else "disabled"}
    added = {"RAY_AUTH_TOKEN": _token()}
    if "ray" not in sys.modules:
        # Ray reads these when it is imported. Despite its name, 0 selects the loopback address on every system.
        # If Ray was imported before, it selects the token itself, because no other mode is set.
        added |= {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return added


@cache
def _token() -> str:
    """Returns the token of this process, which Ray reads only once."""
    return secrets.token_hex(32)


def _silence_raylet() -> None:
    """Keeps Ray from printing "(raylet) A worker died" into the display. The failure of the step is more exact."""
    from ray._private import worker  # noqa: PLC0415  (Ray reads the environment that `session` sets)

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *args, **kwargs: None


def worker_variables() -> dict[str, str]:
    """Returns the environment variables of workers of a Ray that runs already.

    Ray accepts no variable that the job of the driver (`ray job submit`) sets for its workers, too.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    set_by_job = (job.get("runtime_env") or {}).get("env_vars") or {}
    forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    return {name: value for name, value in {**WORKER_ENVIRONMENT, **forwarded}.items() if name not in set_by_job}


def _worker_starter() -> Callable[[], None]:
    """Returns what a worker calls when it starts, for a Ray that was started without `PRELOADED`.

    Ray sends the code of a nested function. Of any other function it sends the name of the module, which the worker
    would have to import before.
    """
    root = ROOT

    def start() -> None:
        # Where the folder of the driver does not exist, the machine has another installation.
        for folder in (root, *sys.path):
            if (Path(folder) / "cluster" / "run" / "worker_start.py").is_file():
                sys.path.insert(0, folder)
                import cluster.run.worker_start  # noqa: F401, PLC0415  (the path was set above)

                return

    return start


def _python_path() -> str:
    """Returns a PYTHONPATH with which workers import the same packages as the driver."""
    others = [item for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item and item != ROOT]
    return os.pathsep.join([ROOT, *others])
