"""The command that writes a classifier as a folder to deploy: export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views.progress_display import preflight_progress
from pipelines.cli.views.terminal import console, errors
from pipelines.export.exporter import Exported, ExportOptions, export_classifier
from pipelines.preflight.checks import OnStart
from pipelines.run.request import load_request
from stages.common.errors import InputError
from stages.common.protocols import NullRecorder


def export(
    recipe: options.Recipe,
    output: Annotated[Path, typer.Option("--output", help="New folder.")],
    row: options.Row = None,
    onnx: Annotated[bool, typer.Option("--onnx/--no-onnx", help="Write ONNX files too, in float32 and int8.")] = True,
    license_: Annotated[
        list[str] | None,
        typer.Option("--license", metavar="KEY=NAME", help="License of a model or data set of the recipe. Repeatable."),
    ] = None,
    override: options.Override = None,
    store: options.StoreFolder = DEFAULT_STORE,
) -> None:
    """Write the classifier to a folder with all files that it needs, ONNX files and a model card."""
    export_options = ExportOptions(row=row, onnx=onnx, licenses=_licenses(license_ or ()))
    request = load_request(recipe, override, store)
    with preflight_progress(errors) as on_start:
        exported = export_classifier(request, export_options, output, _MeasureProgress(on_start))
    console.print(_measures_table(exported))
    for source in exported.without_license:
        console.print(
            f"warning   the license of {escape(source.key)} ({escape(source.name)}) is unknown. Add --license "
            f"{escape(source.key)}=NAME.",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip
    console.print(f"wrote     {escape(str(output))}", highlight=False, soft_wrap=True)


class _MeasureProgress(NullRecorder):
    """Shows the progress of the measurements."""

    def __init__(self, on_start: OnStart) -> None:
        self._on_start = on_start

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        self._on_start(f"measuring {info['phase']}", done, total)


def _licenses(options_: Sequence[str]) -> dict[str, str]:
    licenses: dict[str, str] = {}
    for option in options_:
        key, equals, name = option.partition("=")
        if not equals or not key or not name:
            raise InputError(f"{option!r} names no license.", "Write --license data.train=CC-BY-4.0.", key="--license")
        licenses[key] = name
    return licenses


def _measures_table(exported: Exported) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(("file", "MB", "texts/s", "accuracy", "same label")):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for item in exported.facts.measures:
        table.add_row(
            item.file,
            f"{item.num_bytes / 1e6:,.1f}",
            f"{item.texts_per_s:,.0f}",
            f"{item.accuracy:.1%}",
            f"{item.same_labels:.1%}",
        )
    return table
