"""What a person did wrong, said so that they can mend it.

ValueError
└── InputError             a recipe, a data file or an asset is not usable; every message ends in a remedy
    ├── PatternError       a pattern does not parse, or does not fit its task or backbone
    ├── VerbalizerError    a label word is not one token of the backbone's vocabulary
    ├── DataError          a data file lacks a column, a label or a text, or holds too few examples
    └── AssetError         a model or data file cannot be reached, or is damaged
ArithmeticError
└── DivergedError          a loss became NaN or infinite: training stopped at once
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


def _rebuild(kind: type[InputError], problem: str, remedy: str, key: str, where: str) -> InputError:
    return kind(problem, remedy, key=key, where=where)
