"""The section for chain of thought."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipelines.schema.sections.resources import Section
from stages.chain_of_thought.config import QuestionSettings, RationaleSettings
from stages.common.config import Name
from stages.common.errors import InputError


class ChainOfThoughtSection(Section, QuestionSettings):
    """A causal model writes a rationale before its answer. Nothing is trained."""

    answers: dict[str, tuple[str, ...]] = Field({})
    """Label -> words that name it in an answer. If not set: the label and its label words."""
    methods: dict[Name, RationaleSettings] = Field(min_length=1)
    """Name of a method, which is part of its row in the report -> how its rationales are written."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds of the samples. Methods without sampling have the first one only."""

    @model_validator(mode="after")
    def _has_enough_demonstrations(self) -> Self:
        for name, method in self.methods.items():
            if method.num_demonstrations > len(self.demonstrations):
                raise InputError(
                    f"{method.num_demonstrations} demonstrations are required, but there are "
                    f"{len(self.demonstrations)}.",
                    "Add demonstrations, or lower num_demonstrations.",
                    key=f"methods.{name}.num_demonstrations",
                )
        return self

    @model_validator(mode="after")
    def _demonstrations_do_not_end_early(self) -> Self:
        for name, method in self.methods.items():
            for number, item in enumerate(self.demonstrations[: method.num_demonstrations]):
                if ends := [end for end in method.ends if end in item.rationale.strip()]:
                    raise InputError(
                        f"the rationale contains {ends[0]!r}, where the method {name} ends each rationale.",
                        f"Remove it from the rationale, or set methods.{name}.stop.",
                        key=f"demonstrations.{number}.rationale",
                    )
        return self

    @model_validator(mode="after")
    def _weights_are_whole(self) -> Self:
        if self.strategy in ("fsdp", "zero3", "zero3_offload"):
            raise InputError(
                f"{self.strategy} partitions the weights, but workers write texts of different lengths.",
                "Set strategy: ddp in this section.",
                key="strategy",
            )
        return self
