"""Rules about chain of thought. Each raises `InputError` with the dotted key."""

from __future__ import annotations

from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.chain_of_thought import ChainOfThoughtSection
from stages.chain_of_thought.answers import AnswerParser
from stages.chain_of_thought.config import ChainOfThoughtConfig, question_pattern
from stages.common.errors import InputError
from stages.common.patterns.config import Task

KEY = "chain_of_thought"


def check_chain_of_thought(config: PipelineConfig) -> None:
    """The question reads fields of the task, each label has its own words, and demonstrations have an answer."""
    section = config.chain_of_thought
    if section is None:
        return
    for name in question_pattern(section.question).fields:
        if name not in config.task.fields:
            raise InputError(
                f"the question reads the field {name!r}, which no pattern of the task reads.",
                f"Use one of: {', '.join(config.task.fields)}.",
                key=f"{KEY}.question",
            )
    answers = answers_of(section, config.task)
    _check_words(answers, config.task)
    find = AnswerParser(answers, section.answer_trigger, section.answer_pattern)
    for number, item in enumerate(section.demonstrations):
        if find(item.rationale).label is None:
            how = "answer_pattern" if section.answer_pattern else f"answer_trigger {section.answer_trigger!r}"
            raise InputError(
                f"no answer can be extracted from {item.rationale!r} with {how}.",
                f"End it with an answer: {section.answer_trigger} {next(iter(answers.values()))[0]}.",
                key=f"{KEY}.demonstrations.{number}.rationale",
            )


def answers_of(section: ChainOfThoughtSection, task: Task) -> dict[str, tuple[str, ...]]:
    """Returns label -> words that name it in an answer."""
    if section.answers:
        return dict(section.answers)
    words = {label: [label] for label in task.labels}
    if not task.options:
        for pattern in task.patterns:
            for label, own in task.words(pattern).items():
                words[label] += own
    return {label: tuple(dict.fromkeys(own)) for label, own in words.items()}


def method_config(config: PipelineConfig, name: str) -> ChainOfThoughtConfig:
    """Returns the config of the steps of a method, without their seed."""
    section = config.chain_of_thought
    assert section is not None
    method = section.methods[name]
    return ChainOfThoughtConfig.of(
        method,
        question=section.question,
        demonstrations=section.demonstrations[: method.num_demonstrations],
        answer_trigger=section.answer_trigger,
        answer_pattern=section.answer_pattern,
        labels=config.task.labels,
        problem_type=config.task.problem_type,
        truncation=config.task.truncation,
        answers=answers_of(section, config.task),
        backbone=config.language_model,
    )


def _check_words(answers: dict[str, tuple[str, ...]], task: Task) -> None:
    for label in {**dict.fromkeys(task.labels), **dict.fromkeys(answers)}:
        if label not in task.labels:
            raise InputError(
                f"{label!r} is not in labels {list(task.labels)}.", "Correct its spelling.", key=f"{KEY}.answers"
            )
        if not answers.get(label) or not all(word.strip() for word in answers[label]):
            raise InputError(f"no word names the label {label!r}.", "Add one.", key=f"{KEY}.answers")
    owners: dict[str, str] = {}
    for label, words in answers.items():
        for word in words:
            if owners.setdefault(word.casefold(), label) != label:
                raise InputError(
                    f"the word {word!r} names both {owners[word.casefold()]!r} and {label!r}.",
                    "Set answers: {label: [word]}, with different words for each label.",
                    key=f"{KEY}.answers",
                )
