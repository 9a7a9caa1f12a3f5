"""Steps that search for label words and patterns, before all steps that use a pattern.

verbalizer/<pattern>        label words of one pattern
pattern_search/<pattern>    better texts for this pattern, and for all others with the same text and label words
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.steps.step import Step
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from stages.pet.pattern_search.config import PatternSearchConfig
from stages.pet.verbalizer_search.config import VerbalizerSearchConfig


@dataclass(frozen=True, slots=True)
class Searches:
    """`words`: pattern -> the step that finds its label words; `patterns`: pattern -> the step that finds its text.
    Both are empty without a search.
    """

    words: Mapping[str, Step]
    patterns: Mapping[str, Step]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, each once."""
        return tuple({step.name: step for step in (*self.words.values(), *self.patterns.values())}.values())

    def inputs(self, pattern: str) -> dict[str, Step | None]:
        """Returns role -> upstream step of a step that uses a pattern."""
        return {"verbalizer": self.words.get(pattern), "pattern_search": self.patterns.get(pattern)}


def search_steps(config: PipelineConfig, data: Step) -> Searches:
    """Returns the searches of a recipe."""
    return Searches(_verbalizer_steps(config, data), _pattern_steps(config, data))


def _verbalizer_steps(config: PipelineConfig, data: Step) -> dict[str, Step]:
    section = config.verbalizer_search
    if section is None:
        return {}
    return {
        pattern: make_step(
            config,
            f"verbalizer/{pattern}",
            kind="verbalizer",
            run="stages.pet.verbalizer_search.stage:run",
            config=VerbalizerSearchConfig.of(
                section, task=config.task.only(pattern), pattern=pattern, backbone=config.language_model
            ),
            inputs={"data": data},
            resources=section.resources,
            pattern=pattern,
        )
        for pattern in config.hard_patterns
    }


def _pattern_steps(config: PipelineConfig, data: Step) -> dict[str, Step]:
    section = config.pattern_search
    if section is None:
        return {}
    names_of: dict[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], list[str]] = {}
    for name in config.searched_patterns:  # searches that start from the same text and words are one
        start = (config.task.patterns[name], tuple(config.task.words(name).items()))
        names_of.setdefault(start, []).append(name)
    steps: dict[str, Step] = {}
    for names in names_of.values():
        step = make_step(
            config,
            f"pattern_search/{names[0]}",
            kind="pattern_search",
            run="stages.pet.pattern_search.stage:run",
            config=PatternSearchConfig.of(
                section,
                task=config.task.only(names[0]),
                pattern=names[0],
                names=tuple(names),
                backbone=config.language_model,
            ),
            inputs={"data": data},
            resources=section.resources,
            pattern=names[0],
        )
        steps |= dict.fromkeys(names, step)
    return steps
