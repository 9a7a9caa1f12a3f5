"""Checks command lines of files and documents with the parsers of the programs. Runs no command."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from typer.main import get_command

from pipelines.cli.app import COMMANDS, LazyCommands, app, load_command
from tests.support.paths import ROOT

OTHERS = {
    ".", "cp", "docker", "export", "kubectl", "pip", "python3", "set", "test", "true",
}  # fmt: skip
"""Programs of others: only file names in their arguments are checked."""
_FENCE = re.compile(r"```sh\n(.*?)```", re.S)
_BETWEEN = {"&&", "||", "|", ";", "&"}
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=.*", re.S)


class NoSuchCommandError(Exception):
    """The program would reject the line."""


def shell_lines(text: str) -> Iterator[list[str]]:
    """Yields the commands of a shell script as words, without assignments and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _BETWEEN:
                words.append(word)
                continue
            while words and _ASSIGNED.fullmatch(words[0]):
                words = words[1:]
            words = words[: words.index(">")] if ">" in words else words
            if words:
                yield words
            words = []


def page_lines(page: Path) -> list[list[str]]:
    """Returns the commands in the shell blocks of a page."""
    return [line for block in _FENCE.findall(page.read_text(encoding="utf-8")) for line in shell_lines(block)]


def inline_lines(page: Path) -> list[list[str]]:
    """Returns commands in the text of a page, such as `clozeline run --address`."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    commands = [shlex.split(item) for item in re.findall(r"`((?:clozeline|ray|mlflow) [^`]+)`", text)]
    return [words for words in commands if len(words) > 1]


def check(words: list[str], *, whole: bool = True) -> None:
    """Checks a command.

    Args:
        words: One command.
        whole: If False, the command is incomplete: check only the names of subcommand and options.

    Raises:
        NoSuchCommandError: the program, its subcommand, an option, a target or a file does not exist.
    """
    program = words[0].rpartition("/")[2]
    if program == "ray":
        _check_ray(tuple(words), whole)
    elif program in ("clozeline", "mlflow"):
        _check_click(_group(program), words[1:], whole)
    elif program == "make":
        _check_make(words[1:])
    elif program not in OTHERS:
        raise NoSuchCommandError(f"{program}: not a program of this list")
    for word in words[1:]:
        # Paths of this repository. Absolute paths are on another machine.
        if re.match(r"cluster/|docs/", word) and not word.endswith(".env") and not (ROOT / word).exists():
            raise NoSuchCommandError(f"the file {word} does not exist")


def _group(program: str) -> Any:
    if program == "clozeline":
        return get_command(app)
    from mlflow.cli import cli as mlflow_cli

    return mlflow_cli


@cache
def _check_ray(words: tuple[str, ...], whole: bool) -> None:
    """Checks in a separate process: Ray decides at import who may connect, and other tests start it later."""
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(words), str(int(whole))],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise NoSuchCommandError(done.stderr.strip().rpartition("NoSuchCommandError: ")[2])


def _check_click(command: Any, words: list[str], whole: bool) -> None:
    path: list[str] = []
    while hasattr(command, "commands"):
        if words == ["--help"]:
            return
        is_lazy = isinstance(command, LazyCommands)
        if not words or words[0] not in (COMMANDS if is_lazy else command.commands):
            raise NoSuchCommandError(f"{' '.join(path)} has no command {words[:1]}")
        path.append(words[0])
        command, words = load_command(words[0]) if is_lazy else command.commands[words[0]], words[1:]
    if whole:
        try:
            context = command.make_context(path[-1], list(words))
        except Exception as error:
            raise NoSuchCommandError(f"{' '.join(path)}: {error}") from error
        if path == ["job", "submit"]:
            check(list(context.params["entrypoint"]))
        return
    options = {name for item in command.params for name in (*item.opts, *item.secondary_opts)}
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in options:
            raise NoSuchCommandError(f"{' '.join(path)} has no option {word}")


def _check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, assigned, _ = word.partition("=")
        form = rf"^{re.escape(name)}\s*\?=" if assigned else rf"^{re.escape(name)}:"
        if not re.search(form, makefile, re.M):
            raise NoSuchCommandError(f"the Makefile has no {name}")


if __name__ == "__main__":
    from ray.scripts.scripts import cli

    _check_click(cli, json.loads(sys.argv[1])[1:], sys.argv[2] == "1")
