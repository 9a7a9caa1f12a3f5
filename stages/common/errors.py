"""Errors that the user can fix, each with a remedy, and errors that stop a training run.

ValueError
└── InputError             a recipe, a data file or an asset is not usable; every message ends in a remedy
    ├── PatternError       a pattern does not parse, or does not fit its task or backbone
    ├── VerbalizerError    a label word is not in the backbone's vocabulary, or two labels have the same words
    ├── DataError          a data file lacks a column, a label or a text, or has too few examples
    └── AssetError         a model or data file is unreachable or damaged
ArithmeticError
└── DivergedError          a loss became NaN or infinite: training stopped at once
RuntimeError
└── StoppedError           a stop was requested; training saved a checkpoint and ended
"""

from __future__ import annotations


class InputError(ValueError):
    """A problem with a recipe, a data file or an asset that the user can fix.

    Args:
        problem: What is wrong, as a sentence.
        remedy: What to do, as an imperative sentence.
        key: Dotted key in the recipe, if known; a caller may add it.
        where: File and line, if known; a caller may add it.
    """

    def __init__(self, problem: str, remedy: str, *, key: str = "", where: str = "") -> None:
        super().__init__(problem, remedy, key, where)
        self.problem = problem
        self.remedy = remedy
        self.key = key
        self.where = where

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.remedy, self.key, self.where)

    def __str__(self) -> str:
        location = ": ".join(part for part in (self.where, self.key) if part)
        return f"{location + ': ' if location else ''}{self.problem} {self.remedy}"

    def at(self, *, key: str = "", where: str = "") -> InputError:
        """Returns the error with its location, unless it has one already."""
        return type(self)(self.problem, self.remedy, key=self.key or key, where=self.where or where)


class PatternError(InputError):
    """A pattern does not parse, or does not fit its task or backbone."""


class VerbalizerError(InputError):
    """A label word is not in the backbone's vocabulary, or two labels have the same words."""


class DataError(InputError):
    """A data file lacks a column, a label or a text, or has too few examples."""


class AssetError(InputError):
    """A model or data file is unreachable or damaged."""


class DivergedError(ArithmeticError):
    """A loss became NaN or infinite."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


class StoppedError(RuntimeError):
    """A stop was requested; training saved a checkpoint and ended."""

    transient = True
    """True because a new attempt resumes from the checkpoint."""
    is_preemption = True
    """True because this does not count as a failed attempt."""
    remedy = "Run the step again to resume from the checkpoint."

    def __init__(self, num_done: int) -> None:
        super().__init__(num_done)
        self.problem = f"a stop was requested; training saved a checkpoint after step {num_done}."

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


def _rebuild(kind: type[InputError], problem: str, remedy: str, key: str, where: str) -> InputError:
    return kind(problem, remedy, key=key, where=where)
