"""The list of commands, and options that were renamed."""

from __future__ import annotations

import inspect

import pytest
from typer.testing import CliRunner

from cluster.steps.functions import resolve
from pipelines.cli.app import COMMANDS, app, load_command
from stages.common.errors import InputError


@pytest.mark.parametrize("name", COMMANDS)
def test_help_line_is_the_first_line_of_the_docstring(name: str) -> None:
    path, help_line = COMMANDS[name]
    assert help_line == str(inspect.getdoc(resolve(path))).splitlines()[0]
    assert load_command(name).name == name


def test_help_lists_all_commands() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        (("init", "x.csv", "--out", "x.yaml"), "--output"),
        (("init", "x.csv", "--words", "a=b"), "--label-words"),
        (("recommend", "smoke", "--apply", "x.yaml"), "--output"),
    ],
)
def test_renamed_option_names_the_new_one(arguments: tuple[str, ...], new: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == f"{arguments[2]} was renamed. Use {new}."
    assert arguments[2] not in CliRunner().invoke(app, [arguments[0], "--help"]).output.split()
