"""The command `clozeline serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands import options as words
from pipelines.commands.options import DEFAULT_STORE
from pipelines.commands.terminal import console


def serve(
    recipe: Annotated[str, typer.Argument(help="A recipe that was run, or the folder of a classifier or prompt.")],
    prompts: Annotated[str | None, typer.Option(help="Soft prompts instead, one a task: name of their method.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 5001,
    max_batch: Annotated[int, typer.Option(help="Texts that the model takes at once.", min=1)] = 64,
    max_wait_ms: Annotated[float, typer.Option(help="Milliseconds that a text waits for others.", min=0)] = 5,
    max_queue: Annotated[int, typer.Option(help="Texts that may wait; more are refused with 503.", min=1)] = 4096,
    max_texts: Annotated[int, typer.Option(help="Texts in a request; more are refused with 413.", min=1)] = 256,
    max_bytes: Annotated[int, typer.Option(help="Bytes of a request; more are refused with 413.", min=64)] = 2 * 2**20,
    override: words.Override = None,
    store: words.StoreFolder = DEFAULT_STORE,
) -> None:
    """Answer over HTTP with the distilled classifier or with prompts: POST /predict, until Ctrl-C or SIGTERM."""
    from pipelines.serving import answering
    from pipelines.serving.service.bodies import Limits
    from pipelines.serving.service.queue import Batching
    from pipelines.serving.service.running import Place
    from pipelines.serving.service.running import serve as serve_until_stopped

    found = answering.find(recipe, override, store, prompts)
    serve_until_stopped(
        found.load,
        {"recipe": recipe, "models": found.origins},
        Place(host=host, port=port),
        Limits(max_texts=max_texts, max_bytes=max_bytes),
        Batching(max_batch=max_batch, max_wait_s=max_wait_ms / 1000, max_queue=max_queue),
        console,
    )
