"""The PPT stage: a soft prompt learns a self-supervised task from raw text, over a frozen backbone.

Gu et al., "PPT: Pre-trained Prompt Tuning for Few-shot Learning", ACL 2022. What it learns is one of the formats of
stages/pretraining/formats.py. Downstream tasks start their prompts from the result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, model_validator

from stages.measures.metrics import Score
from stages.models.backbones import BackboneConfig
from stages.pretraining.formats import Format, NumOptions, need, task_of
from stages.pretraining.pseudo_labels import SingleConfig
from stages.prompts.start import StartConfig
from stages.protocols import Engine, Recorder
from stages.tasks import Example, Task
from stages.texts.corpora import CorpusConfig
from stages.training.loop import LoopConfig

if TYPE_CHECKING:
    from stages.models.backbones import Backbone


class Config(BaseModel, frozen=True, extra="forbid"):
    """A prompt and the text that it is pretrained on."""

    backbone: BackboneConfig = Field(description="The frozen language model.")
    format: Format = Field("pair", description="What is learnt: pair, choice, single or unified.")
    num_options: tuple[NumOptions, NumOptions] = Field(
        (6, 6), description="The fewest and the most options of an example; for choice and unified."
    )
    single: SingleConfig = Field(SingleConfig(), description="What labels the sentences; for single.")
    corpus: CorpusConfig = Field(description="The raw text.")
    num_vectors: int = Field(16, ge=1, description="Vectors of the prompt.")
    start: StartConfig = Field(StartConfig(), description="Where the prompt starts.")
    loop: LoopConfig = Field(description="Length and rates of the training.")
    num_held_out: int = Field(120, ge=3, description="Examples kept aside to measure what was learnt.")
    seed: int = Field(description="Seed of examples, start and order.")

    @model_validator(mode="after")
    def _options_fit(self) -> Config:
        fewest, most = self.num_options
        if fewest > most:
            raise ValueError(f"num_options are at least {fewest} and at most {most}. Write the smaller number first.")
        wanted = need(self.format, most).documents
        if self.corpus.window < wanted:
            raise ValueError(f"{self.format} needs a window of {wanted} documents. Raise corpus.window.")
        return self

    @property
    def task(self) -> Task:
        """The format as a cloze task, with a pattern for each family of backbones."""
        return task_of(self.format, self.num_options[1], self.single.words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`examples`: files of the step that built them from a corpus in shards; none: they are built here."""

    examples: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What the prompt learnt. Files: the prompt in `prompt/` (PEFT's format), the built examples in
    `examples.jsonl`, and `losses.json`.
    """

    held_out_before: Score
    held_out: Score
    final_loss: float
    num_documents: int
    num_examples: int
    trainable_parameters: int


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Builds the examples, trains the prompt, measures it on held-out examples, and writes it to `out`."""
    from stages.models.backbones import load
    from stages.patterns.cloze import ClozeClassifier
    from stages.prompts.peft_format import save_prompt
    from stages.prompts.prompt import Prompt
    from stages.prompts.showing import show
    from stages.prompts.start import start_vectors
    from stages.prompts.vectors import Table
    from stages.seeds import torch_rng
    from stages.texts.data import write_examples
    from stages.training.curves import write_losses
    from stages.training.loop import train

    backbone = load(config.backbone, frozen=True, engine=engine)
    found = built(config, backbone, recorder) if inputs.examples is None else taken(config, inputs.examples)
    examples, num_documents = found
    write_examples(out / "examples.jsonl", examples)
    held_out, examples = examples[: config.num_held_out], examples[config.num_held_out :]
    recorder.table("examples", [{**item.fields, "label": item.label} for item in examples[:30]])

    vectors = start_vectors(config.start, config.num_vectors, backbone, torch_rng(config.seed, "start"))
    prompt = Prompt(Table(vectors)).to(backbone.device)
    classifier = ClozeClassifier.of(config.task, backbone.family, backbone, config.backbone, prompt, engine=engine)
    before, _ = classifier.evaluate(held_out, recorder, "held-out examples before training")
    losses = train(
        classifier.items(examples), classifier.loss, dict(prompt.named_parameters()), config.loop,
        seed=config.seed, recorder=recorder, engine=engine,
    )  # fmt: skip
    write_losses(out, losses)
    save_prompt(prompt, backbone, out / "prompt")
    show(prompt, backbone, recorder)
    after, _ = classifier.evaluate(held_out, recorder, "held-out examples")
    recorder.metric("held_out/accuracy_before", before.accuracy)
    recorder.metric("held_out/accuracy", after.accuracy)
    return Result(
        held_out_before=before,
        held_out=after,
        final_loss=sum(losses[-10:]) / len(losses[-10:]),
        num_documents=num_documents,
        num_examples=len(examples),
        trainable_parameters=prompt.vectors.numel(),
    )


def built(config: Config, backbone: Backbone, recorder: Recorder) -> tuple[list[Example], int]:
    """The examples of the format, those to be held out included, and how many documents were taken for them.

    Raises:
        DataError: the corpus has too little for this format, or nothing of it is labelled surely enough.
        InputError: a classifier cannot label for this config.
    """
    from stages.pretraining.examples import choice_examples, pair_examples
    from stages.pretraining.pseudo_labels import Labeller, single_examples
    from stages.seeds import python_rng
    from stages.texts.corpora import Documents, Window, check_enough

    wanted = need(config.format, config.num_options[1])
    corpus = Documents(config.corpus, wanted.sentences)
    window = Window(corpus, config.corpus.window)
    check_enough(corpus, window, wanted.documents, f"the format {config.format}")
    count = config.corpus.num_examples + config.num_held_out
    rng = python_rng(config.seed, "pairs" if config.format == "pair" else config.format)
    if config.format == "pair":
        examples = pair_examples(window, count, rng)
    elif config.format == "single":
        labeller = Labeller.of(config.single, backbone, config.backbone, recorder)
        examples = single_examples(config.single, labeller, window.sentences(rng), count, rng, recorder)
    else:
        examples = choice_examples(window, count, config.num_options, rng, config.format)
    return examples, corpus.num_taken


def taken(config: Config, folder: Path) -> tuple[list[Example], int]:
    """The same of examples that were built before; see stages/pretraining_examples.py."""
    from stages.pretraining.example_shards import examples_of, sure_of
    from stages.pretraining.pseudo_labels import balanced
    from stages.seeds import python_rng

    rng = python_rng(config.seed, config.format)
    num_documents: int = json.loads((folder / "result.json").read_text())["num_documents"]
    if config.format == "single":
        count = config.corpus.num_examples + config.num_held_out
        return balanced(sure_of(folder, config.single).kept, count, rng), num_documents
    examples = examples_of(folder)
    rng.shuffle(examples)
    return examples, num_documents
