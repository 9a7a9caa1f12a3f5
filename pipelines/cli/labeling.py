"""Commands of the loop around a run: select, label."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views.progress_display import preflight_progress
from pipelines.cli.views.terminal import console, errors
from pipelines.labeling.label_file import LABEL_COLUMN, LabelFile, check_one_label
from pipelines.labeling.page import LabelPage, show_page
from pipelines.labeling.select import Selected, select_texts
from pipelines.preflight.checks import fetch
from pipelines.run.request import RunRequest, load_request
from pipelines.schema.config import ScoreRecipe
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import errors_located_in
from pipelines.serving.service.server import ListenAddress
from stages.common.errors import InputError


def select(
    recipe: options.Recipe,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Number of texts.")] = 20,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Label file, .csv or .jsonl. Default: data.annotated, or RECIPE.labels.csv."),
    ] = None,
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Add the unlabeled texts that are worth labeling next to a file, which the next run reads."""
    request = load_request(recipe, override, store)
    with errors_located_in(request.path), preflight_progress(errors) as on_start:
        sources = {f"data.{key}": item.asset for key, item in request.config.data.sources.items()}
        fetch({key: ref for key, ref in sources.items() if not ref.startswith("hf:")}, on_start)
        selected = select_texts(request, number, output)
    _print_selected(request, selected)


def label(
    file: Annotated[
        Path, typer.Argument(help="Label file: of `clozeline select`, or any CSV file with a column label.")
    ],
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Recipe whose labels to use. Default: NAME.yaml of NAME.labels.csv.")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--label", help="Label to choose from, without a recipe. Repeatable.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free port.", min=0, max=65535)] = 5002,
) -> None:
    """Show a page to label the texts of a file in a browser, with one key per label. Each label is saved at once."""
    rows = LabelFile.open(file)
    if not rows.rows:
        raise InputError(f"{file} has no texts.", "Add some: clozeline select RECIPE.")
    page = LabelPage(rows, labels or _labels(rows, recipe))
    show_page(page, ListenAddress(host=host, port=port), console)


def _labels(file: LabelFile, recipe: str | None) -> Sequence[str]:
    """Returns the labels of the recipe, else those that the file has.

    Raises:
        InputError: there is no recipe, and no text has a label; or the recipe has several labels per text.
    """
    default = file.path.with_name(f"{file.path.name.removesuffix(file.path.suffix).removesuffix('.labels')}.yaml")
    if recipe is not None or default.exists():
        task = read_recipe(find_recipe(recipe or str(default)), ScoreRecipe, (), ignore_others=True).task
        check_one_label(task)
        return task.labels
    labels = sorted({row[LABEL_COLUMN] for row in file.rows} - {""})
    if not labels:
        raise InputError(f"the labels of {file.path} are unknown.", "Add --recipe RECIPE, or each with --label LABEL.")
    return labels


def _print_selected(request: RunRequest, selected: Selected) -> None:
    how = {
        "informative": "about which the models of the last run are unsure or disagree",
        "typical": "which are typical of all, because this recipe has no results yet",
    }
    lines = [f"selected  {selected.num_added} texts, {how[selected.method]}"]
    lines.append(f"wrote     {selected.path} ({selected.num_waiting} texts without a label)")
    run = f"clozeline run {shlex.quote(request.recipe)}"
    if not selected.is_in_recipe:
        value = json.dumps({**selected.source, "asset": str(selected.path)}, ensure_ascii=False)
        run += f" -o {shlex.quote(f'data.annotated={value}')}"
    lines.append(
        f"next      fill in the column label, or clozeline label {shlex.quote(str(selected.path))}; then {run}"
    )
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
