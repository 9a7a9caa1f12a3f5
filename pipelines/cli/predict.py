"""Commands that label texts: score, predict, serve."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views.progress_display import preflight_progress
from pipelines.cli.views.terminal import console, errors, open_lines, open_output
from pipelines.preflight import models
from pipelines.preflight.assets import fetch
from pipelines.schema.config import ScoreRecipe
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError, errors_located_in
from pipelines.serving import batch_inference, model_lookup
from pipelines.serving.service.batcher import BatchingConfig
from pipelines.serving.service.request_parsing import RequestLimits
from pipelines.serving.service.server import ListenAddress, serve_until_stopped
from stages.common.models.backbones.config import BackboneConfig


def score(
    recipe: options.Recipe,
    input_: options.InputFile,
    output: options.OutputFile = None,
    pattern: Annotated[list[str] | None, typer.Option("--pattern", help="Only this pattern. Repeatable.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Another model: an asset's reference.")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", min=8, help="Tokens at the most.")] = None,
    override: options.Override = None,
) -> None:
    """Zero-shot label logits of each pattern for each line, for trying patterns before any training."""

    path = find_recipe(recipe)
    found = read_recipe(path, ScoreRecipe, override or (), ignore_others=True)
    settings = {**found.backbone, "precision": "fp32"}
    settings |= {key: value for key, value in {"asset": backbone, "max_length": max_length}.items() if value}
    if "asset" not in settings:
        raise RecipeError("no backbone is given.", "Add --backbone ASSET, or a backbone section.", where=str(path))
    config = BackboneConfig.model_validate(settings)
    for name in pattern or ():
        if name not in found.task.patterns:
            raise RecipeError(f"there is no pattern {name!r}.", f"Take one of: {', '.join(found.task.patterns)}.")
    with errors_located_in(path), preflight_progress(errors) as show:
        fetch({"backbone.asset": config.asset}, show)
        models.check_scoring(found.task, pattern or list(found.task.patterns), config)
    with open_lines(input_) as lines, open_output(output) as answers:
        for line in batch_inference.score_lines(
            found.task, pattern or list(found.task.patterns), config, lines, input_
        ):
            answers.write(line + "\n")


def predict(
    recipe: Annotated[str, typer.Argument(help="A recipe that was run, or the folder of a classifier.")],
    input_: options.InputFile,
    prompts: Annotated[
        str | None, typer.Option(help="With soft prompts instead: name of their method. Each line names its task.")
    ] = None,
    output: options.OutputFile = None,
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Label lines with the distilled classifier or with prompts: a JSON line with label and probabilities for each."""

    labeller = model_lookup.find_model(recipe, override, store, prompts).load()
    with open_lines(input_) as lines, open_output(output) as answers:
        for line in batch_inference.predict_lines(labeller, lines, input_):
            answers.write(line + "\n")


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
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Answer over HTTP with the distilled classifier or with prompts: POST /predict, until Ctrl-C or SIGTERM."""

    found = model_lookup.find_model(recipe, override, store, prompts)
    serve_until_stopped(
        found.load,
        {"recipe": recipe, "models": found.origins},
        ListenAddress(host=host, port=port),
        RequestLimits(max_texts=max_texts, max_bytes=max_bytes),
        BatchingConfig(max_batch=max_batch, max_wait_s=max_wait_ms / 1000, max_queue=max_queue),
        console,
    )
