"""Errors that the user can fix, each with a remedy, and errors that stop a training run.

ValueError
└── InputError             a recipe, a data file or an asset is not usable; every message ends in a remedy
    ├── PatternError       a pattern does not parse, or does not fit its task or backbone
    ├── VerbalizerError    a label word is not one token of the backbone's vocabulary
    ├── DataError          a data file lacks a column, a label or a text, or has too few examples
    └── AssetError         a model or data file cannot be reached, or is damaged
ArithmeticError
└── DivergedError          a loss became NaN or infinite: training stopped at once
RuntimeError
└── StoppedError           a training run was asked to stop, and did so after it saved a checkpoint
"""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. `key` is the dotted place in the recipe, `where` a file and line; both may be filled in on the way
    up.
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
        place = ": ".join(part for part in (self.where, self.key) if part)
        return f"{place + ': ' if place else ''}{self.problem} {self.remedy}"

    def at(self, *, key: str = "", where: str = "") -> InputError:
        """The same error with its place in the recipe, unless a more exact place is known already."""
        return type(self)(self.problem, self.remedy, key=self.key or key, where=self.where or where)


class PatternError(InputError):
    """A pattern does not parse, or does not fit its task or backbone."""


class VerbalizerError(InputError):
    """A label word is not one token of the backbone's vocabulary, or two labels share all their words."""


class DataError(InputError):
    """A data file lacks a column, a label or a text, or holds too few examples."""


class AssetError(InputError):
    """A model or data file cannot be reached, or is damaged."""


class DivergedError(ArithmeticError):
    """A loss became NaN or infinite."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


class StoppedError(RuntimeError):
    """A training was asked to end, and saved a checkpoint first.

    `transient`: it goes on when it runs again. `is_preemption`: nothing is wrong with it, so that this is no failed attempt.
    """

    transient = True
    is_preemption = True
    remedy = "It goes on from there when it runs again."

    def __init__(self, num_done: int) -> None:
        super().__init__(num_done)
        self.problem = f"it was asked to end, and saved a checkpoint behind step {num_done}."

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


def _rebuild(kind: type[InputError], problem: str, remedy: str, key: str, where: str) -> InputError:
    return kind(problem, remedy, key=key, where=where)
