"""Sections for prompt pretraining and prompt tuning, the token-level tasks, and the choice of the pretrained prompt
that a prompt starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from pipelines.schema.sections.resources import Section, StreamSection, check_batched_training, check_strategy
from stages.common.config import Config, Labels, Name
from stages.common.data.config import CorpusConfig
from stages.common.errors import InputError
from stages.common.patterns.config import Task
from stages.common.patterns.syntax import OPTION
from stages.common.prompts.config import InitConfig, PromptConfig
from stages.common.training.config import TrainingConfig
from stages.prompt_pretraining.config import SingleConfig
from stages.prompt_pretraining.formats import NumOptions, PretrainingFormat, corpus_requirements
from stages.splits.config import DataConfig
from stages.token_level.config import QuestionAnsweringTask, TokenClassificationTask, TokenLevelTaskConfig
from stages.token_level.splits.config import TokenLevelData


class CorpusShards(StreamSection):
    """The examples are built on many workers, shard by shard, in steps of their own."""


class CorpusSection(CorpusConfig):
    """A raw corpus: one document a row."""

    shards: CorpusShards | None = None
    """Builds the examples on many workers, of all shards of a folder (source.asset), and keeps those of a shard when
    they are done; none: in the step that trains, from the start of the corpus.
    """

    @model_validator(mode="after")
    def _shards_are_read_whole(self) -> CorpusSection:
        if self.shards is not None and self.source.limit is not None:
            raise InputError("shards are read whole.", "Take limit out, or shards.", key="source.limit")
        return self

    @property
    def reading(self) -> CorpusConfig:
        """What decides the result."""
        return CorpusConfig(**{name: getattr(self, name) for name in CorpusConfig.model_fields})


class PptSection(Section):
    """Prompt pretraining on raw text: one prompt for each format."""

    formats: tuple[PretrainingFormat, ...] = Field(("pair",), min_length=1)
    """What is learnt, a prompt for each: pair, choice, single, unified."""
    choice_options: NumOptions = 6
    """Options of an example, for choice."""
    unified_options: tuple[NumOptions, NumOptions] = (2, 16)
    """The fewest and the most options of an example, for unified."""
    single: SingleConfig = SingleConfig()
    """What labels the sentences, for single."""
    corpus: CorpusSection
    """The raw text."""
    num_virtual_tokens: int = Field(16, ge=1)
    """Vectors of the prompt."""
    init: InitConfig = InitConfig()
    """Where the prompt starts."""
    num_held_out: int = Field(120, ge=3)
    """Examples kept aside to measure what was learnt."""
    training: TrainingConfig
    """Length and rates of the training."""

    @model_validator(mode="after")
    def _formats_fit(self) -> PptSection:
        twice = [kind for kind in self.formats if self.formats.count(kind) > 1]
        if twice:
            raise InputError(f"the format {twice[0]} is listed twice.", "Keep it once.", key="formats")
        if self.unified_options[0] > self.unified_options[1]:
            raise InputError(
                f"{self.unified_options[0]} options are more than {self.unified_options[1]}.",
                "Write the smaller number first.",
                key="unified_options",
            )
        for kind in self.formats:
            wanted = corpus_requirements(kind, self.num_options(kind)[1]).documents
            if self.corpus.window < wanted:
                raise InputError(
                    f"the format {kind} needs {wanted} documents at a time.", "Raise window.", key="corpus.window"
                )
        return self

    def num_options(self, kind: PretrainingFormat) -> tuple[int, int]:
        """The fewest and the most options in examples of a format that has some."""
        return self.unified_options if kind == "unified" else (self.choice_options, self.choice_options)


class PromptTaskConfig(Config):
    """A downstream task of prompt tuning. Without task and data it is the recipe's own."""

    pattern: str
    """Name of the hard pattern behind the prompt."""
    task: Task | None = None
    """Another task; none: the recipe's own."""
    data: DataConfig | None = None
    """Data of that task."""
    format: PretrainingFormat | None = None
    """The pretrained prompt to start from, by its format; none: the one that fits the task (choice, pair or single),
    else unified, else the only one.
    """

    @model_validator(mode="after")
    def _both_or_neither(self) -> PromptTaskConfig:
        if (self.task is None) != (self.data is None):
            raise ValueError("task and data belong together. Give both, or neither for the recipe's own task.")
        return self


class TokenTaskConfig(Config):
    """A label for every word, as in the recognition of named entities."""

    labels: Labels
    """All labels: O, and for every type of entity B-TYPE and I-TYPE; or any others."""
    data: TokenLevelData
    """Files: fields: {words: COLUMN}, label: COLUMN."""
    format: PretrainingFormat | None = None
    """The pretrained prompt to start from, by its format; none: unified, else the only one."""


class SpanTaskConfig(Config):
    """Where in a context the answer to a question stands, as in SQuAD."""

    data: TokenLevelData
    """Files: fields: {question: COLUMN, context: COLUMN}, label: COLUMN of the answers."""
    unanswerable: bool = False
    """Whether some questions have no answer in their context."""
    max_answer_tokens: int = Field(30, ge=1)
    """Tokens of an answer at the most."""
    overlap: int = Field(64, ge=0)
    """Tokens that two windows of a long context share, half of one at most."""
    format: PretrainingFormat | None = None
    """The pretrained prompt to start from, by its format; none: unified, else the only one."""


class PromptMethod(PromptConfig):
    """A method of soft prompting, with a training of its own if it wants one."""

    training: TrainingConfig | None = None
    """Length and rates of the training; none: those of the section."""

    @property
    def prompt(self) -> PromptConfig:
        """What decides the prompt itself."""
        return PromptConfig(**{name: getattr(self, name) for name in PromptConfig.model_fields})


class PromptsSection(Section):
    """Soft prompts for downstream tasks over the frozen backbone: every task, method and seed is a step."""

    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """One prompt for each seed."""
    methods: dict[Name, PromptMethod] = Field(min_length=1)
    """Name of a row of the report -> its method."""
    tasks: tuple[PromptTaskConfig, ...] = ()
    """Downstream tasks: texts with a label."""
    token_classification: dict[Name, TokenTaskConfig] = Field({})
    """Name of a downstream task -> labels of words."""
    question_answering: dict[Name, SpanTaskConfig] = Field({})
    """Name of a downstream task -> answers to questions."""
    training: TrainingConfig
    """Length and rates of the training."""
    batched_training: bool = False
    """Train the prompts of all `tasks` in one batch, in one step, and test each in its own."""

    @model_validator(mode="after")
    def _has_a_task(self) -> PromptsSection:
        if not (self.tasks or self.token_classification or self.question_answering):
            raise ValueError("there is no task for the prompts. Name one: tasks: [{pattern: review}].")
        if self.batched_training and not self.tasks:
            raise ValueError("batched_training is for the prompts of tasks, and there are none. Take it out.")
        return self

    @model_validator(mode="after")
    def _can_be_together(self) -> PromptsSection:
        check_strategy(self, together=self.batched_training)
        if self.batched_training:
            methods = self.methods.values()
            plain = not any(method.trains_more or method.hard_prompt_steps for method in methods)
            check_batched_training(plain, self.training, *(method.training for method in methods))
        return self


@dataclass(frozen=True, slots=True)
class TokenLevelTask:
    """A task of token labels or spans. place: its dotted place in the recipe; config: its section."""

    task: TokenLevelTaskConfig
    config: TokenTaskConfig | SpanTaskConfig
    place: str

    @property
    def data(self) -> TokenLevelData:
        """Where its texts come from."""
        return self.config.data


def token_level_tasks(prompts: PromptsSection | None) -> list[TokenLevelTask]:
    """All of them, in the recipe's order."""
    if prompts is None:
        return []
    found = [
        TokenLevelTask(TokenClassificationTask(name=name, labels=item.labels), item, f"prompts.tokens.{name}")
        for name, item in prompts.token_classification.items()
    ]
    for name, section in prompts.question_answering.items():
        settings = {key: getattr(section, key) for key in ("unanswerable", "max_answer_tokens", "overlap")}
        found.append(TokenLevelTask(QuestionAnsweringTask(name=name, **settings), section, f"prompts.spans.{name}"))
    return found


def matching_format(task: Task, pattern: str) -> PretrainingFormat:
    """The format that is most like a task under a pattern: choice where there are options, pair where the pattern takes
    two fields or more, else single.
    """
    if task.options:
        return "choice"
    fields = [name for name in task.pattern(pattern).fields if name != OPTION]
    return "pair" if len(fields) > 1 else "single"


def select_format(
    task: Task, pattern: str, formats: Sequence[PretrainingFormat], named: PretrainingFormat | None = None
) -> PretrainingFormat:
    """The format whose prompt is the start for a task.

    Args:
        task: The downstream task.
        pattern: Its pattern.
        formats: Those that are pretrained.
        named: The one that the recipe names; none: the fitting one, else unified, else the only one.

    Raises:
        InputError: the one that is named is not pretrained; or several are, and none of them fits.
    """
    wanted = matching_format(task, pattern)
    if named is None and wanted in formats:
        return wanted
    return _named_or_only(formats, named, f"{wanted} fits the task {task.name}", f"{wanted} or unified")


def named_or_only(
    task: str, formats: Sequence[PretrainingFormat], named: PretrainingFormat | None
) -> PretrainingFormat:
    """The same for a task that no format is like, such as labels of words; errors as above."""
    return _named_or_only(formats, named, f"no format is like the task {task}", "unified")


def _named_or_only(
    formats: Sequence[PretrainingFormat], named: PretrainingFormat | None, why: str, better: str
) -> PretrainingFormat:
    listed = ", ".join(formats)
    if named is not None and named not in formats:
        raise InputError(
            f"no prompt is pretrained in the format {named}; ppt.formats are {listed}.",
            f"Add {named} to ppt.formats, or take one of these.",
        )
    if named is not None:
        return named
    if "unified" in formats:
        return "unified"
    if len(formats) == 1:
        return formats[0]
    raise InputError(
        f"{why}, and the prompts are pretrained in other formats: {listed}.",
        f"Add {better} to ppt.formats; a downstream task may also name one of these: format.",
    )
