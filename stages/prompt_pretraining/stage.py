"""The PPT stage: pretrains a soft prompt on a self-supervised task from raw text, over a frozen backbone.

Gu et al., "PPT: Pre-trained Prompt Tuning for Few-shot Learning", ACL 2022. The task is one of the formats of
stages/prompt_pretraining/formats.py. Prompts of downstream tasks are initialized from the result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stages.common.data.corpora import Documents, Window, check_enough
from stages.common.data.parquet_shards import examples_of
from stages.common.data.split_files import write_examples
from stages.common.data.step_outputs import write_losses
from stages.common.examples import Example
from stages.common.metrics.classification import Score
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.prompts.initialization import init_vectors
from stages.common.prompts.inspection import log_inspection
from stages.common.prompts.peft_format import save_prompt
from stages.common.prompts.prompt_modules import PromptEmbedding
from stages.common.prompts.soft_prompt import Prompt
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng, torch_rng
from stages.common.training.loop import train
from stages.prompt_pretraining.config import PretrainingConfig
from stages.prompt_pretraining.formats import corpus_requirements
from stages.prompt_pretraining.next_sentence import choice_examples, pair_examples
from stages.prompt_pretraining.pseudo_labels import PseudoLabeler, balanced, confident_sentences, single_examples


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


def run(config: PretrainingConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Builds the examples, trains the prompt, measures it on held-out examples, and writes it to `out`."""

    backbone = load_backbone(config.backbone, frozen=True, engine=engine)
    found = (
        build_examples(config, backbone, recorder)
        if inputs.examples is None
        else load_built_examples(config, inputs.examples)
    )
    examples, num_documents = found
    write_examples(out / "examples.jsonl", examples)
    held_out, examples = examples[: config.num_held_out], examples[config.num_held_out :]
    recorder.log_table("examples", [{**item.fields, "label": item.label} for item in examples[:30]])

    vectors = init_vectors(config.init, config.num_virtual_tokens, backbone, torch_rng(config.seed, "start"))
    prompt = Prompt(PromptEmbedding(vectors)).to(backbone.device)
    classifier = ClozeClassifier.of(config.task, backbone.family, backbone, config.backbone, prompt, engine=engine)
    before, _ = classifier.evaluate(held_out, recorder, "held-out examples before training")
    losses = train(
        classifier.items(examples), classifier.loss, dict(prompt.named_parameters()), config.training,
        seed=config.seed, recorder=recorder, engine=engine,
    )  # fmt: skip
    write_losses(out, losses)
    save_prompt(prompt, backbone, out / "prompt")
    log_inspection(prompt, backbone, recorder)
    after, _ = classifier.evaluate(held_out, recorder, "held-out examples")
    recorder.log_metric("held_out/accuracy_before_training", before.accuracy)
    recorder.log_metric("held_out/accuracy", after.accuracy)
    return Result(
        held_out_before=before,
        held_out=after,
        final_loss=sum(losses[-10:]) / len(losses[-10:]),
        num_documents=num_documents,
        num_examples=len(examples),
        trainable_parameters=prompt.vectors.numel(),
    )


def build_examples(config: PretrainingConfig, backbone: Backbone, recorder: Recorder) -> tuple[list[Example], int]:
    """The examples of the format, those to be held out included, and how many documents were taken for them.

    Raises:
        DataError: the corpus has too little for this format, or nothing of it is labelled surely enough.
        InputError: a classifier cannot label for this config.
    """

    wanted = corpus_requirements(config.format, config.num_options[1])
    corpus = Documents(config.corpus, wanted.sentences)
    window = Window(corpus, config.corpus.window)
    check_enough(corpus, window, wanted.documents, f"the format {config.format}")
    count = config.corpus.num_examples + config.num_held_out
    rng = python_rng(config.seed, "pairs" if config.format == "pair" else config.format)
    if config.format == "pair":
        examples = pair_examples(window, count, rng)
    elif config.format == "single":
        labeller = PseudoLabeler.of(config.single, backbone, config.backbone, recorder)
        examples = single_examples(config.single, labeller, window.sentences(rng), count, rng, recorder)
    else:
        examples = choice_examples(window, count, config.num_options, rng, config.format)
    return examples, corpus.num_taken


def load_built_examples(config: PretrainingConfig, folder: Path) -> tuple[list[Example], int]:
    """The same of examples that were built before; see stages/prompt_pretraining/examples/stage.py"""

    rng = python_rng(config.seed, config.format)
    num_documents: int = json.loads((folder / "result.json").read_text())["num_documents"]
    if config.format == "single":
        count = config.corpus.num_examples + config.num_held_out
        return balanced(confident_sentences(folder, config.single).kept, count, rng), num_documents
    examples = examples_of(folder)
    rng.shuffle(examples)
    return examples, num_documents
