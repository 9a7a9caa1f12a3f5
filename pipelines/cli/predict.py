"""Commands that predict labels: score, predict, serve."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views.progress_display import preflight_progress
from pipelines.cli.views.terminal import console, errors, open_lines, open_output
from pipelines.preflight import models
from pipelines.preflight.checks import fetch
from pipelines.schema.config import ScoreRecipe
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError, errors_located_in
from pipelines.serving import batch_inference, model_lookup
from pipelines.serving.service.batcher import BatchingConfig
from pipelines.serving.service.request_parsing import RequestLimits
from pipelines.serving.service.server import ListenAddress, ServiceConfig, serve_until_stopped
from stages.common.models.backbones.config import BackboneConfig


def score(
    recipe: options.Recipe,
    input_: options.InputFile,
    output: options.OutputFile = None,
    pattern: Annotated[list[str] | None, typer.Option("--pattern", help="Use only this pattern. Repeatable.")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Use another model: reference of an asset.")
    ] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", min=8, help="Maximum number of tokens.")] = None,
    override: options.Override = None,
) -> None:
    """Score the labels of each line with each pattern, without training."""
    path = find_recipe(recipe)
    score_recipe = read_recipe(path, ScoreRecipe, override or (), ignore_others=True)
    task = score_recipe.task
    settings = {**(score_recipe.backbone or {}), "precision": "fp32"}
    settings |= {key: value for key, value in {"asset": backbone, "max_length": max_length}.items() if value}
    if "asset" not in settings:
        raise RecipeError("no backbone is set.", "Add --backbone ASSET or a section backbone.", where=str(path))
    config = BackboneConfig.model_validate(settings)
    patterns = pattern or list(task.patterns)
    for name in patterns:
        if name not in task.patterns:
            raise RecipeError(f"unknown pattern {name!r}.", f"Use one of: {', '.join(task.patterns)}.")
    with errors_located_in(path), preflight_progress(errors) as on_start:
        fetch({"backbone.asset": config.asset}, on_start)
        models.check_scoring(task, patterns, config)
    with open_lines(input_) as lines, open_output(output) as file:
        for line in batch_inference.score_lines(task, patterns, config, lines, input_):
            file.write(line + "\n")


def predict(
    recipe: Annotated[str, typer.Argument(help="Recipe that was run, or the folder of a model.")],
    input_: options.InputFile,
    prompts: Annotated[
        str | None, typer.Option(help="Use the soft prompts of this method. Each line names its task.")
    ] = None,
    row: options.Row = None,
    output: options.OutputFile = None,
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Predict labels and probabilities for each line with the classifier or with prompts."""
    choice = model_lookup.ModelChoice(row=row, prompts=prompts)
    predictor = model_lookup.find_model(recipe, override, store, choice).load()
    with open_lines(input_) as lines, open_output(output) as file:
        for line in batch_inference.predict_lines(predictor, lines, input_):
            file.write(line + "\n")


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
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Serve the classifier or prompts over HTTP: POST /predict, until Ctrl-C or SIGTERM."""
    choice = model_lookup.ModelChoice(row=row, prompts=prompts)
    source = model_lookup.find_model(recipe, override, store, choice)
    config = ServiceConfig(
        address=ListenAddress(host=host, port=port),
        limits=RequestLimits(max_texts=max_texts, max_bytes=max_bytes),
        batching=BatchingConfig(max_batch=max_batch, max_wait_s=max_wait_ms / 1000, max_queue=max_queue),
    )
    serve_until_stopped(source.load, {"recipe": recipe, "models": source.origins}, config, console)
