"""Sections for prompt pretraining and prompt tuning, downstream tasks of all kinds, and the choice of the pretrained
prompt that a prompt is initialized from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import Field, model_validator

from pipelines.schema.sections.resources import Section, StreamSection, check_batched_training
from stages.common.config import Config, Name
from stages.common.data.config import CorpusConfig
from stages.common.errors import InputError
from stages.common.models.cloze.config import LossKind
from stages.common.patterns.config import Task
from stages.common.patterns.syntax import OPTION
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.generation.config import GenerationSettings, GenerationTask
from stages.generation.splits.config import GenerationData
from stages.prompt_pretraining.config import PretrainingSettings
from stages.prompt_pretraining.formats import NumOptions, PretrainingFormat, corpus_requirements
from stages.regression.config import RegressionSettings, RegressionTask
from stages.regression.splits.config import RegressionData
from stages.splits.config import DataConfig
from stages.token_level.config import (
    QuestionAnsweringSettings,
    QuestionAnsweringTask,
    TokenClassificationSettings,
    TokenClassificationTask,
    TokenLevelTaskConfig,
)
from stages.token_level.splits.config import TokenLevelData


class CorpusShards(StreamSection):
    """Workers that build the pretraining examples shard by shard, in separate steps."""


class CorpusSection(CorpusConfig):
    """A raw corpus with one document per row."""

    shards: CorpusShards | None = None
    """Builds the examples on many workers from all shards of a folder (source.asset). The examples of a finished shard
    are kept. If not set, the training step builds them from the start of the corpus.
    """

    @model_validator(mode="after")
    def _shards_have_no_limit(self) -> CorpusSection:
        if self.shards is not None and self.source.limit is not None:
            raise InputError("shards are read in full.", "Remove limit or shards.", key="source.limit")
        return self


class PptSection(Section, PretrainingSettings):
    """Prompt pretraining on raw text: one prompt per format."""

    formats: tuple[PretrainingFormat, ...] = Field(("pair",), min_length=1)
    """Formats of the pretraining examples, one prompt per format: pair, choice, single, unified."""
    choice_options: NumOptions = 6
    """Options per example, for choice."""
    unified_options: tuple[NumOptions, NumOptions] = (2, 16)
    """Minimum and maximum number of options per example, for unified."""
    corpus: CorpusSection
    """The raw text."""

    @model_validator(mode="after")
    def _formats_fit(self) -> PptSection:
        repeated = [kind for kind in self.formats if self.formats.count(kind) > 1]
        if repeated:
            raise InputError(f"the format {repeated[0]} is listed twice.", "Keep it once.", key="formats")
        if self.unified_options[0] > self.unified_options[1]:
            raise InputError(
                f"the minimum {self.unified_options[0]} is higher than the maximum {self.unified_options[1]}.",
                "Put the lower number first.",
                key="unified_options",
            )
        for kind in self.formats:
            num_documents = corpus_requirements(kind, self.num_options(kind)[1]).documents
            if self.corpus.window < num_documents:
                raise InputError(
                    f"the format {kind} needs a window of at least {num_documents} documents.",
                    "Raise window.",
                    key="corpus.window",
                )
        return self

    def num_options(self, kind: PretrainingFormat) -> tuple[int, int]:
        """Minimum and maximum number of options in examples of a format with options."""
        return self.unified_options if kind == "unified" else (self.choice_options, self.choice_options)


class PromptTaskConfig(Config):
    """A downstream task of prompt tuning. Without task and data, it is the task of the recipe."""

    pattern: str
    """Name of the pattern, which follows the prompt."""
    task: Task | None = None
    """Another task. If not set, the task of the recipe."""
    data: DataConfig | None = None
    """Data of the other task."""
    as_choice: bool = False
    """If true, the task is rewritten as a choice between its label words, as in Unified PPT. The pattern then only
    gives the fields and their order.
    """
    format: PretrainingFormat | None = None
    """Format of the pretrained prompt for init: ppt. If not set: the format that matches the task (choice, pair or
    single), else unified, else the only one. A task that is rewritten as a choice matches unified.
    """

    @model_validator(mode="after")
    def _choice_is_unified(self) -> PromptTaskConfig:
        if self.as_choice and self.format not in (None, "unified", "choice"):
            raise InputError(
                f"a task that is rewritten as a choice does not start from a prompt in the format {self.format}.",
                "Set format: unified, or remove as_choice.",
                key="format",
            )
        return self

    @model_validator(mode="after")
    def _task_has_data(self) -> PromptTaskConfig:
        for key, other in (("task", "data"), ("data", "task")):
            if getattr(self, key) is not None and getattr(self, other) is None:
                raise InputError(f"{key} is set, but {other} is not.", f"Set {other}, or remove {key}.", key=key)
        return self


class TokenLevelSection(Config):
    """Base of sections of token-level tasks."""

    data: TokenLevelData
    """Files. For token classification: fields: {words: COLUMN}, label: COLUMN. For question answering: fields:
    {question: COLUMN, context: COLUMN}, label: COLUMN of the answers.
    """
    format: PretrainingFormat | None = None
    """Format of the pretrained prompt for init: ppt. If not set: unified, else the only one."""


class TokenClassificationSection(TokenLevelSection, TokenClassificationSettings):
    """A label for each word, as in named entity recognition."""


class QuestionAnsweringSection(TokenLevelSection, QuestionAnsweringSettings):
    """The position of the answer to a question in its context, as in SQuAD."""


class GenerationSection(GenerationSettings):
    """A text for each input, as in table-to-text, summarization and question generation."""

    data: GenerationData
    """Files: fields: {FIELD: COLUMN} for the fields of the pattern, label: COLUMN of the target."""
    format: PretrainingFormat | None = None
    """Format of the pretrained prompt for init: ppt. If not set: unified, else the only one."""


class RegressionSection(RegressionSettings):
    """A number for each text, such as how similar two sentences are."""

    data: RegressionData
    """Files: fields: {FIELD: COLUMN} for the fields of the pattern, label: COLUMN of the values."""
    format: PretrainingFormat | None = None
    """Format of the pretrained prompt for init: ppt. If not set: unified, else the only one."""


class PromptMethod(PromptConfig):
    """A method of soft prompt tuning, optionally with its own training settings."""

    training: TrainingConfig | None = None
    """Length, learning rate and batch size. If not set, the training settings of the section."""


class PromptsSection(Section):
    """Soft prompts for downstream tasks over the frozen backbone: one step per task, method and seed."""

    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds. One prompt is trained per task, method and seed."""
    methods: dict[Name, PromptMethod] = Field(min_length=1)
    """Name of a method, which is part of its row in the report -> its settings."""
    tasks: tuple[PromptTaskConfig, ...] = ()
    """Downstream classification tasks."""
    token_classification: dict[Name, TokenClassificationSection] = Field({})
    """Name of a downstream task -> a token classification task."""
    question_answering: dict[Name, QuestionAnsweringSection] = Field({})
    """Name of a downstream task -> a question answering task."""
    generation: dict[Name, GenerationSection] = Field({})
    """Name of a downstream task -> a text generation task."""
    regression: dict[Name, RegressionSection] = Field({})
    """Name of a downstream task -> a task that predicts a number."""
    loss: LossKind = "auto"
    """Loss of the classification tasks: cross_entropy (over the labels), hinge, vocabulary (cross-entropy over the
    vocabulary, as in the papers), decoupled (a binary cross-entropy per label over the vocabulary), or auto: hinge if a
    label word has several tokens, else cross_entropy. A linear head always has cross_entropy.
    """
    training: TrainingConfig
    """Length, learning rate and batch size."""
    batched_training: bool = False
    """If true, one step trains the prompts of all `tasks` in the same batches. Other steps then test them."""

    @model_validator(mode="after")
    def _has_a_task(self) -> PromptsSection:
        if not (self.tasks or downstream_tasks(self)):
            raise InputError("prompts has no task.", "Add one: tasks: [{pattern: review}].", key="tasks")
        return self

    @model_validator(mode="after")
    def _batched_training_fits(self) -> PromptsSection:
        if not self.batched_training:
            return self
        if not self.tasks:
            raise InputError(
                "batched_training is for prompts.tasks, which is empty.",
                "Remove batched_training.",
                key="batched_training",
            )
        methods = self.methods.values()
        check_batched_training(
            self,
            trains_only_prompts=all(method.can_be_batched for method in methods),
            trainings=[self.training, *(method.training for method in methods)],
        )
        return self


TaskT = TypeVar("TaskT")
SectionT = TypeVar("SectionT")


@dataclass(frozen=True, slots=True)
class DownstreamTask(Generic[TaskT, SectionT]):
    """A downstream task of a recipe that is not classification. key: the dotted key of its section."""

    task: TaskT
    section: SectionT
    key: str


def token_level_tasks(prompts: PromptsSection | None) -> list[DownstreamTask[TokenLevelTaskConfig, TokenLevelSection]]:
    """Returns all token-level tasks, in the order of the recipe."""
    if prompts is None:
        return []
    tasks: list[DownstreamTask[TokenLevelTaskConfig, TokenLevelSection]] = []
    for name, words in prompts.token_classification.items():
        task = TokenClassificationTask.of(words, name=name)
        tasks.append(DownstreamTask(task, words, f"prompts.token_classification.{name}"))
    for name, spans in prompts.question_answering.items():
        answers = QuestionAnsweringTask.of(spans, name=name)
        tasks.append(DownstreamTask(answers, spans, f"prompts.question_answering.{name}"))
    return tasks


def generation_tasks(prompts: PromptsSection | None) -> list[DownstreamTask[GenerationTask, GenerationSection]]:
    """Returns all generation tasks, in the order of the recipe."""
    return [
        DownstreamTask(GenerationTask.of(section, name=name), section, f"prompts.generation.{name}")
        for name, section in (prompts.generation if prompts else {}).items()
    ]


def regression_tasks(prompts: PromptsSection | None) -> list[DownstreamTask[RegressionTask, RegressionSection]]:
    """Returns all regression tasks, in the order of the recipe."""
    return [
        DownstreamTask(RegressionTask.of(section, name=name), section, f"prompts.regression.{name}")
        for name, section in (prompts.regression if prompts else {}).items()
    ]


def downstream_tasks(prompts: PromptsSection | None) -> list[DownstreamTask[Any, Any]]:
    """Returns all downstream tasks that are not classification."""
    return [*token_level_tasks(prompts), *generation_tasks(prompts), *regression_tasks(prompts)]


def matching_format(task: Task, pattern: str) -> PretrainingFormat:
    """Returns the format that is most similar to a task with a pattern: choice if the task has options, pair if the
    pattern reads at least two fields, else single.
    """
    if task.options:
        return "choice"
    fields = [name for name in task.pattern(pattern).fields if name != OPTION]
    return "pair" if len(fields) > 1 else "single"


def select_format(
    task: Task, pattern: str, formats: Sequence[PretrainingFormat], configured: PretrainingFormat | None = None
) -> PretrainingFormat:
    """Returns the format of the pretrained prompt that initializes the prompt of a task.

    Args:
        task: The downstream task.
        pattern: Its pattern.
        formats: The formats of `ppt.formats`.
        configured: The format that the recipe sets. If None, the matching format, else unified, else the only one.

    Raises:
        InputError: the configured format is not pretrained, or several are and none of them matches.
    """
    best = matching_format(task, pattern)
    if configured is None and best in formats:
        return best
    return _configured_or_only(formats, configured, f"{best} fits the task {task.name}", f"{best} or unified")


def select_format_without_match(
    task: str, formats: Sequence[PretrainingFormat], configured: PretrainingFormat | None
) -> PretrainingFormat:
    """The same for a task that is not classification, which no format matches."""
    return _configured_or_only(formats, configured, f"no format matches the task {task}", "unified")


def _configured_or_only(
    formats: Sequence[PretrainingFormat], configured: PretrainingFormat | None, reason: str, better: str
) -> PretrainingFormat:
    listed = ", ".join(formats)
    if configured is not None and configured not in formats:
        raise InputError(
            f"no prompt is pretrained in the format {configured}; ppt.formats has {listed}.",
            f"Add {configured} to ppt.formats, or use one of its formats.",
        )
    if configured is not None:
        return configured
    if "unified" in formats:
        return "unified"
    if len(formats) == 1:
        return formats[0]
    raise InputError(
        f"{reason}, but the prompts are pretrained in other formats: {listed}.",
        f"Add {better} to ppt.formats, or set format of the downstream task to one of these.",
    )
