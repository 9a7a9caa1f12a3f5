"""Config models of prompt pretraining: the prompt, its corpus, and the model that pseudo-labels sentences.

`classifier_folder` checks that the labels of a classifier agree with the config.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from stages.common.assets.cache import resolve
from stages.common.config import Config
from stages.common.data.config import CorpusConfig
from stages.common.errors import AssetError, InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.config import Calibration
from stages.common.patterns.config import Task
from stages.common.patterns.syntax import Pattern
from stages.common.prompts.config import InitConfig
from stages.common.training.config import TrainingConfig
from stages.prompt_pretraining.formats import NumOptions, PretrainingFormat, corpus_requirements, task_of

PATTERN_NAME = "label"
"""The one pattern of the task that labels."""


class SingleConfig(Config):
    """What labels the sentences of the format `single`, and how sure it must be."""

    verbalizer: dict[str, list[str]] = Field(
        {word: [word] for word in ("terrible", "bad", "okay", "good", "great")}, min_length=2
    )
    """Label -> label words, of the labelling pattern and of the pretraining task."""
    pattern: str = "Review: {text}\nSentiment:{mask}"
    """What the backbone is asked about a sentence, which is the field `text`."""
    calibration: Calibration = "unlabeled"
    """Takes the backbone's preference for some labels away: none, contextual (by texts that say nothing) or pile (by
    the first sentences, as if their labels were equally frequent).
    """
    classifier: str | None = Field(None, json_schema_extra={"identity": False})
    """Labels in the backbone's place: the folder of a trained student (`model` of a step). Its labels are the keys of
    words.
    """
    min_confidence: float = Field(0.5, ge=0, lt=1)
    """Sentences whose top probability is lower are left out."""
    candidates_per_example: int = Field(10, ge=1)
    """Sentences labelled at the most, for each example to be built."""

    @field_validator("pattern")
    @classmethod
    def _pattern_reads_text(cls, text: str) -> str:
        parsed = Pattern.parse("pattern", text)
        if parsed.fields != ("text",) or parsed.has_soft_blocks:
            raise ValueError(f"the pattern {text!r} is not one of text alone. Write {{text}} and {{mask}}.")
        return text

    @model_validator(mode="after")
    def _every_label_has_words(self) -> SingleConfig:
        empty = [label for label, words in self.verbalizer.items() if not words]
        if empty:
            raise ValueError(f"the label {empty[0]!r} has no word. Give it one.")
        return self

    @property
    def task(self) -> Task:
        """What the backbone is asked."""
        return Task(
            name="labelling",
            labels=tuple(self.verbalizer),
            patterns={PATTERN_NAME: self.pattern},
            verbalizer=self.verbalizer,
        )


def classifier_folder(config: SingleConfig) -> Path:
    """The folder of the classifier, fetched if need be, whose labels are those that have words.

    Raises:
        AssetError: it is out of reach, or holds no classifier of one text.
        InputError: its labels are not the keys of `words`.
    """

    assert config.classifier is not None
    folder = resolve(config.classifier)
    try:
        about = json.loads((folder / "classifier.json").read_text())
        labels, fields = set(about["labels"]), about["fields"]
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(
            f"{folder} holds no classifier ({error}).", "Name the folder `model` of a step distill/<seed>.",
            key="single.classifier",
        ) from error  # fmt: skip
    if len(fields) != 1:
        raise AssetError(
            f"the classifier in {folder} reads pairs of texts.", "Name one of single texts.", key="single.classifier"
        )
    if labels != set(config.verbalizer):
        raise InputError(
            f"the classifier's labels are {sorted(labels)}, and words are given for {sorted(config.verbalizer)}.",
            "Give words for each of its labels.",
            key="single.words",
        )
    return folder


class PretrainingConfig(Config):
    """A prompt and the text that it is pretrained on."""

    backbone: BackboneConfig
    """The frozen language model."""
    format: PretrainingFormat = "pair"
    """What is learnt: pair, choice, single or unified."""
    num_options: tuple[NumOptions, NumOptions] = (6, 6)
    """The fewest and the most options of an example; for choice and unified."""
    single: SingleConfig = SingleConfig()
    """What labels the sentences; for single."""
    corpus: CorpusConfig
    """The raw text."""
    num_virtual_tokens: int = Field(16, ge=1)
    """Vectors of the prompt."""
    init: InitConfig = InitConfig()
    """Where the prompt starts."""
    training: TrainingConfig
    """Length and rates of the training."""
    num_held_out: int = Field(120, ge=3)
    """Examples kept aside to measure what was learnt."""
    seed: int
    """Seed of examples, start and order."""

    @model_validator(mode="after")
    def _options_fit(self) -> PretrainingConfig:
        fewest, most = self.num_options
        if fewest > most:
            raise ValueError(f"num_options are at least {fewest} and at most {most}. Write the smaller number first.")
        wanted = corpus_requirements(self.format, most).documents
        if self.corpus.window < wanted:
            raise ValueError(f"{self.format} needs a window of {wanted} documents. Raise corpus.window.")
        return self

    @property
    def task(self) -> Task:
        """The format as a cloze task, with a pattern for each family of backbones."""
        return task_of(self.format, self.num_options[1], self.single.verbalizer)
