"""Rules about the pattern search. Each raises `InputError` with the dotted key."""

from __future__ import annotations

from pipelines.schema.config import PipelineConfig
from stages.common.errors import InputError


def check_pattern_search(config: PipelineConfig) -> None:
    """A search for patterns has label words, labeled data to judge candidates, and no step that needs its result
    earlier.
    """
    if config.pattern_search is None:
        return
    check_candidates_can_be_judged(config)
    check_searched_patterns(config)
    check_readers_of_patterns(config)


def check_candidates_can_be_judged(config: PipelineConfig) -> None:
    """Candidates are scored with label words on labeled examples, of which some are held out."""
    if config.verbalizer_search is not None:
        raise InputError(
            "the pattern search scores candidates with label words, but verbalizer_search finds them for the pattern.",
            "Set task.verbalizer and remove verbalizer_search, or remove pattern_search.",
            key="pattern_search",
        )
    if config.task.options and config.pattern_search and config.pattern_search.generate:
        raise InputError(
            "generate fills a gap before the word of a label, but in multiple choice options are scored.",
            "Remove generate; edit and gradient search patterns of multiple choice, too.",
            key="pattern_search.generate",
        )
    if not config.has_labels:
        raise InputError(
            "the pattern search needs labeled data.", "Set data.shots, or remove pattern_search.", key="data.shots"
        )
    if config.data.train is None and config.data.shots == 1:
        raise InputError(
            "the pattern search holds out labeled examples, but each label has one.",
            "Raise data.shots to 2 or more, or remove pattern_search.",
            key="data.shots",
        )


def check_searched_patterns(config: PipelineConfig) -> None:
    """The patterns to start from exist, and have no soft blocks."""
    for name in config.searched_patterns:
        if name not in config.task.patterns:
            raise InputError(
                f"there is no pattern {name!r}.",
                f"Use one of: {', '.join(config.hard_patterns)}.",
                key="pattern_search.patterns",
            )
        if name not in config.hard_patterns:
            raise InputError(
                f"pattern {name!r} has a soft block, whose vectors are trained, not searched.",
                "Remove it from pattern_search.patterns.",
                key="pattern_search.patterns",
            )


def check_readers_of_patterns(config: PipelineConfig) -> None:
    """Soft prompts and batched sub-models are trained for a pattern as the recipe has it."""
    searched = set(config.searched_patterns)
    for number, item in enumerate(config.prompts.tasks if config.prompts else ()):
        if item.task is None and item.pattern in searched:
            raise InputError(
                f"prompts for pattern {item.pattern!r} are trained with its text, which the pattern search replaces.",
                "Leave the pattern out of pattern_search.patterns, or remove the task here.",
                key=f"prompts.tasks.{number}.pattern",
            )
    for key, section in config.pet_sections.items():
        if section.batched_training and searched.intersection(config.patterns_of(section)):
            raise InputError(
                "batched_training needs patterns, but pattern_search finds them later.",
                "Remove batched_training, or leave its patterns out of pattern_search.patterns.",
                key=f"{key}.batched_training",
            )
