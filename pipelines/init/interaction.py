"""Questions of `clozeline init`, and how they reach the terminal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

from rich.console import Console
from rich.markup import escape

from pipelines.preflight.checks import OnStart
from stages.common.errors import InputError

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Interaction:
    """Connects the wizard to the terminal."""

    console: Console
    """Shows what was loaded and proposed."""
    ask: Callable[[str, str | None], str] | None
    """Asks a question with a default and returns the answer; None: use the defaults."""
    open_output: Callable[[Path], AbstractContextManager[TextIO]]
    """Opens the recipe for writing."""
    progress: Callable[[Console], AbstractContextManager[OnStart]]
    """Shows the progress of downloads."""

    def say(self, subject: str, text: str) -> None:
        """Prints a line about a subject."""
        self.console.print(f"{subject:<9} {text}", highlight=False, markup=False, soft_wrap=True)

    def ask_or_default(
        self,
        question: str,
        flag: str | None,
        default: str | None,
        parse: Callable[[str], Answer],
        missing: InputError | None = None,
    ) -> Answer:
        """Returns the value of the flag, else the user's first valid answer, else the default.

        Args:
            question: The question for the user.
            flag: The value of the flag, if set.
            default: The default; None: raise `missing` if the input is not interactive.
            parse: Makes a value from a text. Its errors are shown, and the question is repeated.
            missing: See `default`.
        """
        if flag is not None:
            return parse(flag)
        while self.ask is not None:
            answer = self.ask(question, default)
            try:
                return parse(answer)
            except InputError as error:
                self.console.print(escape(str(error)), style="yellow", highlight=False, soft_wrap=True)
        if default is None:
            assert missing is not None
            raise missing
        return parse(default)
