"""Config models of regression: the task, and the settings of a saved model.

As in LM-BFF (Gao et al., ACL 2021, section 3.2), a number is between two values that words represent: with a range
from 0 to 5 and the words No and Yes, 4 is predicted if Yes has the probability 0.8 of the two.
"""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import model_validator

from stages.common.config import Config, Name
from stages.common.errors import InputError, PatternError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Task, Truncation
from stages.common.patterns.syntax import Pattern

SERVING_FILE = "regression_model.json"
ENDS = ("lowest", "highest")
"""Labels of the two ends of the range, in the order of logits."""
PATTERN = "value"
"""Name of the pattern."""


class RegressionSettings(Config):
    """Settings of a regression task that a recipe defines."""

    pattern: str
    """Text with one {mask} and fields of the data in braces, and soft blocks if wanted."""
    words: tuple[str, str] | None = None
    """Words that represent the lowest and the highest value, such as [No, Yes]. Not needed with head: linear."""
    range: tuple[float, float]
    """The lowest and the highest value, such as [0, 5]. All values of the data are between them."""
    truncation: Truncation = "last"
    """The field of the longer segment that is truncated: the last or the longest."""

    @model_validator(mode="after")
    def _pattern_parses(self) -> RegressionSettings:
        try:
            Pattern.parse(PATTERN, self.pattern)
        except PatternError as error:
            raise error.at(key="pattern") from None
        return self

    @model_validator(mode="after")
    def _range_is_ordered(self) -> RegressionSettings:
        lowest, highest = self.range
        if not (math.isfinite(lowest) and math.isfinite(highest) and lowest < highest):
            raise InputError(
                f"{lowest:g} and {highest:g} are not a lowest and a highest value.",
                "Set two numbers, the lower one first: range: [0, 5].",
                key="range",
            )
        return self


class RegressionTask(RegressionSettings):
    """A number for each text."""

    name: Name
    """Name of the task; part of step names."""

    @property
    def ends(self) -> Task:
        """The classification task whose labels are the two ends of the range."""
        words = {} if self.words is None else {end: [word] for end, word in zip(ENDS, self.words, strict=True)}
        return Task(
            name=self.name,
            labels=ENDS,
            patterns={PATTERN: self.pattern},
            verbalizer=words,
            truncation=self.truncation,
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of the data that the pattern reads."""
        return self.ends.fields


class RegressionServingConfig(Config):
    """What is needed to predict with a saved prompt."""

    task: RegressionTask
    """The task."""
    backbone: BackboneConfig
    """The frozen language model."""

    def save(self, folder: Path) -> None:
        """Writes the config to the folder of the prompt."""
        (folder / SERVING_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
