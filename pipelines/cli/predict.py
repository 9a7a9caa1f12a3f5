"""Commands that predict labels: score, predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views.progress_display import preflight_progress
from pipelines.cli.views.terminal import errors, new_file, open_input, open_output
from pipelines.init.language import name_language
from pipelines.preflight import models
from pipelines.preflight.checks import fetch
from pipelines.schema.config import ScoreRecipe
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError, errors_located_in
from pipelines.serving import batch_inference, drift, model_lookup
from pipelines.serving.batch_inference import AnswerOptions, RowLabeler
from pipelines.serving.input_rows import FileFormat, InputRows, format_of, read_rows
from pipelines.serving.output_rows import AnswerColumns, write_parquet, write_text
from pipelines.serving.remote_rows import is_remote, remote_rows, shown_name
from stages.common.config import MULTI_LABEL, asset_refs
from stages.common.errors import DataError, InputError
from stages.common.models.backbones.config import BackboneConfig

MAX_REJECTED = 20
"""Rejected rows that are printed."""


def score(
    recipe: options.Recipe,
    input_: options.InputFile,
    output: options.OutputFile = None,
    pattern: Annotated[list[str] | None, typer.Option("--pattern", help="Use only this pattern. Repeatable.")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Use another model: reference of an asset.")
    ] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", min=8, help="Maximum number of tokens.")] = None,
    format_: options.InputFormat = None,
    override: options.Override = None,
) -> None:
    """Score the labels of each row with each pattern, without training."""
    path = find_recipe(recipe)
    score_recipe = read_recipe(path, ScoreRecipe, override or (), ignore_others=True)
    task = score_recipe.task
    if task.problem_type == MULTI_LABEL:
        raise RecipeError(
            "a pattern scores labels of which an example has exactly one.",
            "Use clozeline predict, or a task with one label per example.",
            where=str(path),
            key="task.problem_type",
        )
    settings = score_recipe.backbone.model_dump() if score_recipe.backbone else {}
    settings |= {"precision": "fp32"} | {
        key: value for key, value in {"asset": backbone, "max_length": max_length}.items() if value
    }
    if "asset" not in settings:
        raise RecipeError("no backbone is set.", "Add --backbone ASSET or a section backbone.", where=str(path))
    config = BackboneConfig.model_validate(settings)
    patterns = pattern or list(task.patterns)
    for name in patterns:
        if name not in task.patterns:
            raise RecipeError(f"unknown pattern {name!r}.", f"Use one of: {', '.join(task.patterns)}.")
    with errors_located_in(path), preflight_progress(errors) as on_start:
        refs = {f"backbone.{key}": ref for key, ref in asset_refs(config).items()}
        fetch(refs, on_start, backbones={"backbone": config})
        models.check_scoring(task, patterns, config)
    for warning in models.code_warnings({"backbone": config}):
        errors.print(f"warning   {escape(warning)}", style="yellow", highlight=False, soft_wrap=True)
    from pipelines.serving.scoring import score_rows  # noqa: PLC0415  (loads torch)

    columns = score_recipe.columns
    plain_field = task.fields[0] if len(task.fields) == 1 else None
    with _open_rows(input_, format_) as read, open_output(output) as file:
        rows = read(plain_field)
        if rows.columns is not None:
            fields = {name: columns.get(name, ()) for name in task.fields}
            batch_inference.check_columns(rows.columns, fields, shown_name(input_))
        for line in score_rows(task, patterns, config, columns, rows):
            file.write(line + "\n")


def predict(
    recipe: Annotated[str, typer.Argument(help="Recipe that was run, or the folder of a model.")],
    input_: options.InputFile,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Output file; its ending selects the format. Default: standard output."),
    ] = None,
    format_: options.InputFormat = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="FIELD=COLUMN", help="Column of a field. Default: as in the recipe."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Write only the most likely labels.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Give no label if its probability is lower.")
    ] = None,
    abstain_label: Annotated[
        str | None, typer.Option(metavar="LABEL", help="With --threshold: write this instead of no label.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be labeled.")] = False,
    highlight: Annotated[
        bool, typer.Option("--highlight", help="Write the words that decided. Reads each text once per word.")
    ] = False,
    prompts: Annotated[
        str | None, typer.Option(help="Use the soft prompts of this method. Each row names its task.")
    ] = None,
    row: options.Row = None,
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Predict labels and probabilities for each row with the classifier or with prompts."""
    if abstain_label is not None and threshold is None:
        raise InputError("--abstain-label needs a threshold.", "Add --threshold 0.8.", key="--abstain-label")
    choice = model_lookup.ModelChoice(row=row, prompts=prompts)
    source = model_lookup.find_model(recipe, override, store, choice)
    given = _given_columns(column or ())
    answers = AnswerOptions(
        top_k=top_k, threshold=threshold, abstain_label=abstain_label, is_strict=strict, has_highlight=highlight
    )
    with _open_rows(input_, format_) as read:
        predictor = source.load()
        columns = {task: {**source.columns.get(task, {}), **given} for task in predictor.tasks}
        rows = read(predictor.plain_field())
        if not rows.encoding.startswith("utf-8"):
            errors.print(f"read      {escape(input_)} as {rows.encoding}", highlight=False, soft_wrap=True)
        labeler = RowLabeler(predictor, columns, answers, _Rejected())
        names, blocks = (
            AnswerColumns(predictor, top_k, has_highlight=highlight),
            labeler.label(rows, shown_name(input_)),
        )
        file_format = (format_of(output) if output else None) or rows.format
        if file_format == "parquet" and output is not None:
            with new_file(output) as path:
                write_parquet(blocks, names, rows, path)
        else:
            is_text = output is not None or file_format in ("csv", "tsv")
            with open_output(output) as file:
                write_text(blocks, names, rows, file_format if is_text else "jsonl", file)
    _warn_of_differences(source, labeler)
    if labeler.num_rejected:
        num_rows = labeler.num_answered + labeler.num_rejected
        errors.print(f"rejected  {labeler.num_rejected} of {num_rows} rows", highlight=False)
        raise typer.Exit(1)


@contextmanager
def _open_rows(input_: str, file_format: FileFormat | None) -> Iterator[Callable[[str | None], InputRows]]:
    """Opens a file, or connects to a database or a hub; yields a function that reads the rows.

    Its argument is the field that a plain line sets, which is known once the model is loaded.
    """
    if not is_remote(input_):
        with open_input(input_) as stream:
            yield lambda plain_field: read_rows(stream, input_, file_format, plain_field)
        return
    if file_format is not None:
        raise InputError("the rows of databases and of the hub have no file format.", "Remove --format.")
    rows = remote_rows(input_)
    yield lambda plain_field: rows


def _warn_of_differences(source: model_lookup.ModelSource, labeler: RowLabeler) -> None:
    """Warns if the texts differ from those of the test set in language, length or confidence."""
    if source.test_set is None or not labeler.sample:
        return
    known_texts, known_confidences = source.test_set.load()
    texts, confidences = zip(*labeler.sample, strict=True)
    known = drift.TextProfile.of(known_texts[: drift.MAX_TEXTS], known_confidences, name_language)
    for sentence in drift.differences(known, drift.TextProfile.of(texts, confidences, name_language)):
        errors.print(
            f"warning   these texts differ from the test set. {sentence} The accuracy in the report may not hold.",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip


def _given_columns(options_: Sequence[str]) -> dict[str, tuple[str, ...]]:
    columns: dict[str, tuple[str, ...]] = {}
    for option in options_:
        field, equals, name = option.partition("=")
        if not equals or not field or not name:
            raise InputError(f"{option!r} names no column.", "Write --column FIELD=COLUMN.", key="--column")
        columns[field] = (name,)
    return columns


class _Rejected:
    """Prints the rows that are rejected, at most `MAX_REJECTED` of them."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, error: DataError) -> None:
        self._count += 1
        if self._count <= MAX_REJECTED:
            errors.print(f"rejected  {escape(str(error))}", highlight=False, soft_wrap=True)
        elif self._count == MAX_REJECTED + 1:
            errors.print("rejected  more rows; the output has all errors", highlight=False)
