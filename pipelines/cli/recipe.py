"""Commands that write recipes and describe their keys: init, recommend, schema."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views import terminal
from pipelines.cli.views.progress_display import preflight_progress
from pipelines.cli.views.terminal import console, open_output
from pipelines.init import recommendations
from pipelines.init.wizard import InitOptions, InitWizard
from pipelines.run.request import load_request
from pipelines.schema import reference


def recommend(
    recipe: options.Recipe,
    memory: Annotated[
        float | None, typer.Option(help="GiB of a worker's device; left out: what this machine has.", min=0.1)
    ] = None,
    apply: Annotated[Path | None, typer.Option(help="Write the recipe with all of it to this new file.")] = None,
    override: options.Override = None,
) -> None:
    """Say which method, lengths, rates and parallelism suit a recipe's task and backbone, and why."""

    asked = load_request(recipe, override, DEFAULT_STORE)
    with preflight_progress(console) as show:
        found = recommendations.recommend_settings(
            recommendations.gather_task_profile(asked.config, int(memory * 2**30) if memory else None, show)
        )
    console.print(recommendations.recommendation_table(found))
    if apply:
        recommendations.write_recommended(asked.config, found, apply)
        console.print(f"written  {apply}", highlight=False)


def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled texts: CSV, TSV, JSON lines or parquet.")],
    out: Annotated[Path | None, typer.Option("--out", help="The new recipe; left out: NAME.yaml.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the task; left out: that of the file.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="Column of the text.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of the label.")] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern",
            metavar="NAME=TEXT",
            help="Cloze question with {text} and {mask}; \\n breaks the line. Repeatable.",
        ),
    ] = None,
    words_: Annotated[
        list[str] | None,
        typer.Option("--words", metavar="LABEL=WORD,WORD", help="Words that stand for a label. Repeatable."),
    ] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=1, help="Labelled examples a class.")] = None,
    test_size: Annotated[int | None, typer.Option("--test-size", min=1, help="Texts of the test set.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Language model; left out: the demo's.")] = None,
    student: Annotated[str | None, typer.Option("--student", help="Encoder; left out: the demo's.")] = None,
    score: Annotated[
        bool, typer.Option("--score/--no-score", help="Show how well each pattern does before any training.")
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take what is proposed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write a recipe for a file of labelled texts. Asks for what no option says; in a pipe, guesses it."""

    wanted = InitOptions(
        data=data, out=out, name=name, text=text, label=label, patterns=pattern or (), words=words_ or (), shots=shots,
        test_size=test_size, backbone=backbone, student=student, score=score, force=force,
    )  # fmt: skip
    written = InitWizard(
        wanted,
        terminal.is_interactive() and not yes,
        console,
        ask=terminal.prompt_user,
        open_output=open_output,
        progress=preflight_progress,
    ).start()
    console.print(f"written  {written}", highlight=False, markup=False, soft_wrap=True)
    next_command = f"clozeline run {shlex.quote(str(written))}"
    console.print(f"next     {next_command}", highlight=False, markup=False, soft_wrap=True)


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="The reference for people instead.")] = False,
    output: options.OutputFile = None,
) -> None:
    """Print what recipes may say: a JSON schema for editors, or (--markdown) a reference of all keys."""

    with open_output(output) as file:
        file.write(reference.reference_markdown() if markdown else reference.schema_text())
