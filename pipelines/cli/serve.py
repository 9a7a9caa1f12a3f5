"""The command that answers over HTTP: serve."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cluster.run.ray_serve import ReplicaPlan
from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views.terminal import console, open_log
from pipelines.serving import model_lookup
from pipelines.serving.loading import MAX_LOADED_PROMPTS
from pipelines.serving.service.batcher import BatchingConfig
from pipelines.serving.service.middleware import json_lines
from pipelines.serving.service.replicas import ReplicaArguments, serve_replicas_until_stopped
from pipelines.serving.service.request_parsing import RequestLimits
from pipelines.serving.service.server import AdminConfig, ListenAddress, ServiceConfig, serve_until_stopped
from stages.common.errors import InputError


def serve(
    recipe: Annotated[str, typer.Argument(help="Recipe that was run, or the folder of a model.")],
    prompts: Annotated[str | None, typer.Option(help="Serve the soft prompts of this method, one per task.")] = None,
    row: options.Row = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free port.", min=0, max=65535)] = 5001,
    max_batch: Annotated[int, typer.Option(help="Maximum number of texts per batch.", min=1)] = 64,
    max_wait_ms: Annotated[float, typer.Option(help="Milliseconds a text waits for a full batch.", min=0)] = 5,
    max_queue: Annotated[int, typer.Option(help="Maximum number of waiting texts; above it: 503.", min=1)] = 4096,
    max_texts: Annotated[int, typer.Option(help="Maximum number of texts per request; above it: 413.", min=1)] = 256,
    max_bytes: Annotated[int, typer.Option(help="Maximum bytes per request; above it: 413.", min=64)] = 2 * 2**20,
    api_key: Annotated[
        str | None,
        typer.Option(help="Key that requests must send. Set it in the environment.", envvar="CLOZELINE_API_KEY"),
    ] = None,
    admin_key: Annotated[
        str | None,
        typer.Option(
            help="Key of the routes that change the tasks of prompts; without it there are none. Set it in the "
            "environment.",
            envvar="CLOZELINE_ADMIN_KEY",
        ),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With an admin key: keep the tasks in this file, and read them at the start."
        ),
    ] = None,
    max_loaded_prompts: Annotated[
        int, typer.Option(help="Prompts in memory; the others are read when a text needs them.", min=1)
    ] = MAX_LOADED_PROMPTS,
    ray: Annotated[
        bool, typer.Option("--ray", help="Serve replicas with Ray Serve. Needs the extra ray-serve.")
    ] = False,
    address: options.Address = None,
    replicas: Annotated[int, typer.Option(help="With --ray: replicas of the model.", min=1)] = 1,
    max_replicas: Annotated[
        int | None, typer.Option(help="With --ray: add replicas up to this number under load.", min=1)
    ] = None,
    target_requests: Annotated[
        float, typer.Option(help="With --ray: open requests per replica above which one is added.", min=0.1)
    ] = 32,
    replica_cpus: Annotated[float, typer.Option(help="With --ray: CPUs, and threads, of a replica.", min=0)] = 1,
    replica_gpus: Annotated[float, typer.Option(help="With --ray: GPUs of a replica.", min=0)] = 0,
    access_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a JSON line per request; - for standard output.")
    ] = None,
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Serve the classifier or prompts over HTTP: POST /predict, until Ctrl-C or SIGTERM."""
    if tasks is not None and admin_key is None:
        raise InputError("--tasks needs an admin key.", "Set CLOZELINE_ADMIN_KEY.", key="--tasks")
    if ray and access_log is not None:
        raise InputError(
            "replicas have no access log in common.",
            "Remove --access-log: Ray Serve logs the requests of each replica in the folder of Ray's logs.",
            key="--access-log",
        )
    if ray and admin_key is not None and tasks is None:
        raise InputError("replicas share their tasks in a file.", "Add --tasks FILE.", key="--tasks")
    most = max_replicas or replicas
    if most < replicas:
        raise InputError(f"--max-replicas {most} is less than --replicas.", "Raise it.", key="--max-replicas")
    choice = model_lookup.ModelChoice(row=row, prompts=prompts)
    source = model_lookup.find_model(recipe, override, store, choice)
    about = {"recipe": recipe, "models": source.origins}
    with open_log(access_log) as write:
        config = ServiceConfig(
            address=ListenAddress(host=host, port=port),
            limits=RequestLimits(max_texts=max_texts, max_bytes=max_bytes),
            batching=BatchingConfig(max_batch=max_batch, max_wait_s=max_wait_ms / 1000, max_queue=max_queue),
            api_key=api_key,
            admin=None
            if admin_key is None
            else AdminConfig(key=admin_key, find_folder=model_lookup.model_folder, file=tasks and tasks.absolute()),
            access_log=None if access_log is None else json_lines(write),
        )
        if not ray:
            serve_until_stopped(partial(source.load, max_loaded_prompts), about, config, console)
            return
        plan = ReplicaPlan(
            min_replicas=replicas,
            max_replicas=most,
            target_requests=target_requests,
            max_requests=max_queue,
            num_cpus=replica_cpus,
            num_gpus=replica_gpus,
        )
        folders = tuple(folder.absolute() for folder in source.folders)
        arguments = ReplicaArguments(folders=folders, max_loaded_prompts=max_loaded_prompts, about=about, config=config)
        serve_replicas_until_stopped(arguments, plan, address, console)
