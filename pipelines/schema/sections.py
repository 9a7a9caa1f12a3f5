"""The sections of a recipe: one pydantic model each. Every field has a description; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from cluster.step import Resources, Strategy
from pipelines.schema.corpus_section import CorpusSection
from pipelines.schema.resources import OffloadTo, Workers, check_offload
from pipelines.schema.stream_section import StreamSection
from stages.annotation_splits import AnnotatedData
from stages.ensembles.generations import IpetConfig
from stages.errors import InputError
from stages.models.backbones import BackboneConfig
from stages.models.contrast import ContrastConfig
from stages.models.encoders import EncoderConfig
from stages.models.submodels import LoraConfig, Tune
from stages.patterns.cloze import Loss
from stages.patterns.mlm import MlmConfig
from stages.pretraining.formats import Format, NumOptions, need
from stages.pretraining.pseudo_labels import SingleConfig
from stages.prompts.methods import PromptConfig
from stages.prompts.start import StartConfig
from stages.shard_labels import ShardsConfig
from stages.soft_labels import EnsembleConfig
from stages.splits import DataConfig
from stages.tasks import Labels, Name, Task
from stages.training.loop import LoopConfig
from stages.verbalizer_search import SearchConfig


class Section(BaseModel, frozen=True, extra="forbid"):
    """A section of a recipe. `cpus` and `gpus` are what each of its steps gets; threads follow from `cpus`."""

    cpus: float = Field(1.0, gt=0, description="Processor cores a step; as many threads compute.")
    gpus: float = Field(0.0, ge=0, description="GPUs a step.")
    workers: Workers = Field(
        1,
        description="Workers a step; each gets these cores and GPUs, and a part of the work. [fewest, most]: as many "
        "as there is room for.",
    )
    strategy: Strategy = Field(
        "single",
        description="How workers share a step: single (there is one), ddp (each takes a part of every batch), zero2 "
        "(and a part of the gradients and moments of what trains), zero3 (instead, a part of every frozen weight), "
        "zero3_offload (and those lie in the memory of its machine).",
    )
    offload_to: OffloadTo | None = Field(
        None, description="A folder on a fast disk of every machine, where those lie instead."
    )

    @property
    def resources(self) -> Resources:
        """What each of its steps gets."""
        return Resources(
            cpus=self.cpus, gpus=self.gpus, workers=self.workers, strategy=self.strategy, offload_to=self.offload_to
        )

    @model_validator(mode="after")
    def _workers_have_a_strategy(self) -> Self:
        if self.resources.max_workers > 1 and self.strategy == "single":
            raise ValueError("strategy: single has one worker. Take strategy: ddp or zero3, or take workers out.")
        check_offload(self.strategy, self.offload_to)
        return self


def check_spread(section: Section, *, trains_all: bool = False, together: bool = False) -> None:
    """Refuses strategies that a section cannot follow.

    Args:
        section: Its workers and their strategy.
        trains_all: Whether it trains all weights of a model.
        together: Whether many prompts train in one batch.

    Raises:
        ValueError: names the keys.
    """
    if trains_all and section.strategy in ("zero3", "zero3_offload"):
        raise ValueError(
            f"{section.strategy} spreads frozen weights, and here all of them train. Take strategy: zero2."
        )
    if together and section.strategy != "single":
        raise ValueError("together is one pass of one worker. Take together out, or strategy and workers.")


def check_together(has_prompts: bool, *loops: LoopConfig | None) -> None:
    """Refuses what cannot train together.

    Raises:
        ValueError: no soft prompts; or micro batches or early stopping.
    """
    if not has_prompts:
        raise ValueError("together is for soft prompts without LoRA, hard_steps and linear heads. Take it out.")
    if any(loop and (loop.micro_batch_size or loop.early_stopping) for loop in loops):
        raise ValueError("together knows neither micro_batch_size nor early_stopping. Take them out, or together.")


class PptSection(Section, frozen=True):
    """Prompt pretraining on raw text: one prompt for each format."""

    formats: tuple[Format, ...] = Field(
        ("pair",), min_length=1, description="What is learnt, a prompt for each: pair, choice, single, unified."
    )
    choice_options: NumOptions = Field(6, description="Options of an example, for choice.")
    unified_options: tuple[NumOptions, NumOptions] = Field(
        (2, 16), description="The fewest and the most options of an example, for unified."
    )
    single: SingleConfig = Field(SingleConfig(), description="What labels the sentences, for single.")
    corpus: CorpusSection = Field(description="The raw text.")
    num_vectors: int = Field(16, ge=1, description="Vectors of the prompt.")
    start: StartConfig = Field(StartConfig(), description="Where the prompt starts.")
    num_held_out: int = Field(120, ge=3, description="Examples kept aside to measure what was learnt.")
    loop: LoopConfig = Field(description="Length and rates of the training.")

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
            wanted = need(kind, self.num_options(kind)[1]).documents
            if self.corpus.window < wanted:
                raise InputError(
                    f"the format {kind} needs {wanted} documents at a time.", "Raise window.", key="corpus.window"
                )
        return self

    def num_options(self, kind: Format) -> tuple[int, int]:
        """The fewest and the most options in examples of a format that has some."""
        return self.unified_options if kind == "unified" else (self.choice_options, self.choice_options)


class PetSection(Section, frozen=True):
    """Sub-models: one for each pattern and seed."""

    patterns: tuple[Name, ...] | None = Field(None, min_length=1, description="Patterns to train; none: all.")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Seeds; every pattern is trained with each.")
    tune: Tune = Field("lora", description="What is trained: full, lora, prompt or none.")
    lora: LoraConfig = Field(LoraConfig(), description="Adapters, for tune: lora.")
    prompt: PromptConfig = Field(PromptConfig(), description="Soft prompt, for tune: prompt.")
    together: bool = Field(
        False, description="tune: prompt: train all sub-models of the first generation in one batch, in one step."
    )
    loop: LoopConfig | None = Field(None, description="Length and rates of the training; not needed for tune: none.")
    loss: Loss = Field("auto", description="cross_entropy, hinge, or auto: hinge where a word has several tokens.")
    mlm: MlmConfig | None = Field(None, description="The auxiliary loss on unlabelled text; masked models only.")
    ipet: IpetConfig | None = Field(
        None, description="Further generations that teach each other; none: one generation."
    )

    @model_validator(mode="after")
    def _loop_fits(self) -> PetSection:
        if self.loop is None and self.tune != "none":
            raise ValueError(f"tune: {self.tune} needs a loop. Add one: loop: {{learning_rate: 0.001, epochs: 6}}.")
        if self.tune == "prompt" and (self.mlm or self.prompt.trains_more):
            raise ValueError("tune: prompt takes no mlm, prompt.lora or prompt.head. Take them out, or mend tune.")
        if self.together:
            check_together(self.tune == "prompt" and not self.prompt.hard_steps, self.loop)
        if self.tune == "none" and (self.mlm or self.ipet):
            raise ValueError("tune: none takes neither mlm nor ipet, which train. Mend tune, or take them out.")
        check_spread(self, trains_all=self.tune == "full", together=self.together)
        return self


class PetMember(PetSection, frozen=True):
    """Sub-models on another backbone, members of the same ensemble."""

    kind: Literal["pet"] = Field(description="pet: sub-models.")
    backbone: BackboneConfig = Field(description="Their language model.")


class ProbeMember(Section, frozen=True):
    """A sentence encoder, frozen or tuned on pairs, with logistic regression: a member of the ensemble."""

    kind: Literal["probe"] = Field(description="probe: logistic regression on sentence embeddings.")
    encoder: EncoderConfig = Field(description="The sentence encoder.")
    strength: float = Field(1.0, gt=0, description="C of scikit-learn's LogisticRegression: higher fits closer.")
    contrast: ContrastConfig | None = Field(
        None, description="Tunes the encoder on pairs of labelled texts first (SetFit); none: it is frozen."
    )

    @model_validator(mode="after")
    def _spreads_nothing(self) -> ProbeMember:
        check_spread(self, trains_all=True)
        return self


Member = Annotated[PetMember | ProbeMember, Field(discriminator="kind")]


class SearchSection(Section, SearchConfig, frozen=True):
    """Label words found by PETAL, for every pattern, where the task has none."""


class PrimingSection(Section, frozen=True):
    """Patterns measured with demonstrations before each text, and nothing trained."""

    shots: int = Field(2, ge=1, description="Demonstrations a class.")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Seeds of their choice and order.")


class EnsembleSection(EnsembleConfig, frozen=True):
    """The ensemble of all members, which labels the unlabelled pile."""

    min_members: int | None = Field(
        None, ge=1, description="Members that are enough if others fail; none: every one is needed."
    )

    @property
    def mixing(self) -> EnsembleConfig:
        """What decides the result."""
        return EnsembleConfig(**{name: getattr(self, name) for name in EnsembleConfig.model_fields})


class ShardsSection(StreamSection, ShardsConfig, frozen=True):
    """A pile too large for memory, which the ensemble labels; students learn from it in the place of the other pile."""

    num_taught: int = Field(
        100_000, ge=1, description="Texts that a student learns from at the most, drawn among those that distill keeps."
    )

    @property
    def reading(self) -> ShardsConfig:
        """What decides the result."""
        return ShardsConfig(source=self.source, batch_size=self.batch_size)


class DistillSection(Section, frozen=True):
    """The student, trained on soft labels."""

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="One student for each seed.")
    temperature: float = Field(2.0, gt=0, description="Softens the teacher's and the student's distribution.")
    gold_share: float = Field(0.0, ge=0, lt=1, description="Weight of the labelled examples in the loss.")
    keep_share: float = Field(1.0, gt=0, le=1, description="Share of each predicted label's texts kept, surest first.")
    min_confidence: float = Field(0.0, ge=0, lt=1, description="Texts whose top probability is lower are left out.")
    loop: LoopConfig | None = Field(None, description="Length and rates of the training; none for student.tune: head.")

    @model_validator(mode="after")
    def _spreads_nothing(self) -> DistillSection:
        check_spread(self, trains_all=True)
        return self


class BaselineSection(Section, frozen=True):
    """The student's encoder, trained on the labelled examples alone."""

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="One baseline for each seed.")
    loop: LoopConfig | None = Field(None, description="Length and rates of the training; none for student.tune: head.")

    @model_validator(mode="after")
    def _spreads_nothing(self) -> BaselineSection:
        check_spread(self, trains_all=True)
        return self


class PromptTaskConfig(BaseModel, frozen=True, extra="forbid"):
    """A downstream task of prompt tuning. Without task and data it is the recipe's own."""

    pattern: str = Field(description="Name of the hard pattern behind the prompt.")
    task: Task | None = Field(None, description="Another task; none: the recipe's own.")
    data: DataConfig | None = Field(None, description="Data of that task.")
    format: Format | None = Field(
        None,
        description="The pretrained prompt to start from, by its format; none: the one that fits the task (choice, "
        "pair or single), else unified, else the only one.",
    )

    @model_validator(mode="after")
    def _both_or_neither(self) -> PromptTaskConfig:
        if (self.task is None) != (self.data is None):
            raise ValueError("task and data belong together. Give both, or neither for the recipe's own task.")
        return self


class TokenTaskConfig(BaseModel, frozen=True, extra="forbid"):
    """A label for every word, as in the recognition of named entities."""

    labels: Labels = Field(description="All labels: O, and for every type of entity B-TYPE and I-TYPE; or any others.")
    data: AnnotatedData = Field(description="Files: fields: {words: COLUMN}, label: COLUMN.")
    format: Format | None = Field(
        None, description="The pretrained prompt to start from, by its format; none: unified, else the only one."
    )


class SpanTaskConfig(BaseModel, frozen=True, extra="forbid"):
    """Where in a context the answer to a question stands, as in SQuAD."""

    data: AnnotatedData = Field(
        description="Files: fields: {question: COLUMN, context: COLUMN}, label: COLUMN of the answers."
    )
    unanswerable: bool = Field(False, description="Whether some questions have no answer in their context.")
    max_answer: int = Field(30, ge=1, description="Tokens of an answer at the most.")
    overlap: int = Field(64, ge=0, description="Tokens that two windows of a long context share, half of one at most.")
    format: Format | None = Field(
        None, description="The pretrained prompt to start from, by its format; none: unified, else the only one."
    )


class PromptMethod(PromptConfig, frozen=True):
    """A method of soft prompting, with a training of its own if it wants one."""

    loop: LoopConfig | None = Field(None, description="Length and rates of the training; none: those of the section.")

    @property
    def prompt(self) -> PromptConfig:
        """What decides the prompt itself."""
        return PromptConfig(**{name: getattr(self, name) for name in PromptConfig.model_fields})


class PromptsSection(Section, frozen=True):
    """Soft prompts for downstream tasks over the frozen backbone: every task, method and seed is a step."""

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="One prompt for each seed.")
    methods: dict[Name, PromptMethod] = Field(min_length=1, description="Name of a row of the report -> its method.")
    tasks: tuple[PromptTaskConfig, ...] = Field((), description="Downstream tasks: texts with a label.")
    tokens: dict[Name, TokenTaskConfig] = Field({}, description="Name of a downstream task -> labels of words.")
    spans: dict[Name, SpanTaskConfig] = Field({}, description="Name of a downstream task -> answers to questions.")
    loop: LoopConfig = Field(description="Length and rates of the training.")
    together: bool = Field(
        False,
        description="Train the prompts of all `tasks` in one batch, in one step, and test each in its own.",
    )

    @model_validator(mode="after")
    def _has_a_task(self) -> PromptsSection:
        if not (self.tasks or self.tokens or self.spans):
            raise ValueError("there is no task for the prompts. Name one: tasks: [{pattern: review}].")
        if self.together and not self.tasks:
            raise ValueError("together is for the prompts of tasks, and there are none. Take it out.")
        return self

    @model_validator(mode="after")
    def _can_be_together(self) -> PromptsSection:
        check_spread(self, together=self.together)
        if self.together:
            methods = self.methods.values()
            plain = not any(method.trains_more or method.hard_steps for method in methods)
            check_together(plain, self.loop, *(method.loop for method in methods))
        return self
