"""The command line: lists the commands, imports a command's module when it is called, and turns errors into messages.

Exit status: 0 success, 1 a step failed or rows were rejected, 2 bad input, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from cluster.errors import ClusterError
from cluster.steps.functions import resolve
from pipelines.cli.streams import discard_output, prepare_environment, system_error
from pipelines.cli.views.terminal import errors
from stages.common.assets.references import apply_offline
from stages.common.errors import InputError

BAD_INPUT = 2

COMMANDS = {
    "run": ("pipelines.cli.run:run", "Run a recipe. Committed steps are read from the store."),
    "resume": (
        "pipelines.cli.run:resume",
        "Resume a run that failed or was stopped: `run`, with `--from` for the given steps.",
    ),
    "explain": (
        "pipelines.cli.plan:explain",
        "Show why a step runs: its cache key compared with the nearest committed one.",
    ),
    "plan": ("pipelines.cli.plan:plan", "Show what a run would do, and why. Runs nothing and fetches nothing."),
    "status": ("pipelines.cli.plan:status", "Show which steps are committed, running or failed."),
    "accept": (
        "pipelines.cli.maintenance:accept",
        "Keep results although code or library versions changed, if the change does not affect them.",
    ),
    "graph": ("pipelines.cli.plan:graph", "Print the graph of a recipe as Mermaid text, or draw it."),
    "score": ("pipelines.cli.predict:score", "Score the labels of each row with each pattern, without training."),
    "predict": (
        "pipelines.cli.predict:predict",
        "Predict labels and probabilities for each row with the classifier or with prompts.",
    ),
    "export": (
        "pipelines.cli.export:export",
        "Write the classifier to a folder with all files that it needs, ONNX files and a model card.",
    ),
    "select": (
        "pipelines.cli.labeling:select",
        "Add the unlabeled texts that are worth labeling next to a file, which the next run reads.",
    ),
    "label": (
        "pipelines.cli.labeling:label",
        "Show a page to label the texts of a file in a browser, with one key per label. Each label is saved at once.",
    ),
    "recommend": (
        "pipelines.cli.recommend:recommend",
        "Recommend a method, lengths, rates and parallelism for a recipe, or search for settings of its prompts.",
    ),
    "gc": (
        "pipelines.cli.maintenance:gc",
        "Remove results that no recipe needs any more. Every run enters its recipe into the store.",
    ),
    "sync": (
        "pipelines.cli.maintenance:sync",
        "Send MLflow what earlier runs recorded while it did not answer.",
    ),
    "doctor": (
        "pipelines.cli.doctor:doctor",
        "Check versions, devices, disk, network and assets, and show how to fix what is missing.",
    ),
    "serve": (
        "pipelines.cli.serve:serve",
        "Serve the classifier or prompts over HTTP: POST /predict, until Ctrl-C or SIGTERM.",
    ),
    "init": ("pipelines.cli.recipe:init", "Write a recipe for a file of labeled examples."),
    "generate": (
        "pipelines.cli.recipe:generate",
        "Write texts per label with a language model, as unlabeled data for `init`.",
    ),
    "templates": (
        "pipelines.cli.recipe:templates",
        "Convert templates of promptsource into patterns and label words of a recipe.",
    ),
    "schema": (
        "pipelines.cli.recipe:schema",
        "Print the JSON schema of recipes, a reference of all keys, or what works on which model.",
    ),
}
"""Command -> its function, and its line in the overview: the first sentence of the docstring."""


class LazyCommands(TyperGroup):
    """Imports the module of a command when the command is called, so `--help` imports none of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the names of all commands, in the order of the overview."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns a command without its options, for the overview."""
        del ctx
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Imports the command that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(str(name)), rest


def load_command(name: str) -> Any:
    """Imports a command. The classes of commands are private in typer, so the return type is Any."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name)(resolve(COMMANDS[name][0]))
    return get_command(single)


app = typer.Typer(
    cls=LazyCommands,
    help="From a few labeled and many unlabeled examples to a small, fast classifier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Runs a command. Prints errors and exits with a status; with `--debug` anywhere, raises them."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # they would interrupt our progress bars
    apply_offline()
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        prepare_environment()
        try:
            app()
        finally:
            sys.stdout.flush()  # here, so that a full disk is reported as other errors are
    except (InputError, ClusterError) as error:
        if debug:
            raise
        _print_error(error)
        if "--json" in sys.argv:
            from pipelines.cli.views import json_events  # noqa: PLC0415  (takes a tenth of a second)

            json_events.write_failed(sys.stdout, error, BAD_INPUT)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:  # the reader closed the pipe, which is not an error
        discard_output()
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        discard_output()
        _print_error(system_error(error))
        sys.exit(1)


def _print_error(error: Exception) -> None:
    errors.print(f"[bold red]error[/]     {escape(str(error))}", highlight=False, soft_wrap=True)


@app.callback()
def _common(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False) -> None:
    """Defines `--debug`, which `main` reads, for the help text."""
