"""The PPT stage: pretrains a soft prompt on a self-supervised task from raw text, over a frozen backbone.

Gu et al., "PPT: Pre-trained Prompt Tuning for Few-shot Learning", ACL 2022. The task is one of the formats of
stages/prompt_pretraining/formats.py. Prompts of downstream tasks are initialized from the result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stages.common.data.corpora import Documents, Window, check_enough
from stages.common.data.parquet_shards import examples_of
from stages.common.data.step_outputs import write_losses
from stages.common.examples import Example, table_rows, write_examples
from stages.common.metrics.classification import Score
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.prompts.initialization import init_vectors
from stages.common.prompts.soft_prompt import Prompt, PromptEmbedding
from stages.common.prompts.tuning import save_tuned_prompt, tune
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng, torch_rng
from stages.prompt_pretraining.config import PretrainingConfig
from stages.prompt_pretraining.formats import corpus_requirements
from stages.prompt_pretraining.next_sentence import choice_examples, pair_examples
from stages.prompt_pretraining.pseudo_labels import PseudoLabeler, balanced, confident_sentences, single_examples

MAX_LOGGED = 30
"""Rows of the table of examples."""
NUM_FINAL_LOSSES = 10
"""Steps of which `final_loss` is the mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`examples`: files of the step that built the examples from shards. Default: this stage builds them."""

    examples: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Scores on held-out examples. Files: the prompt in `prompt/` (PEFT's format), the examples in `examples.jsonl`,
    and `losses.json`.
    """

    held_out_before: Score
    held_out: Score
    final_loss: float
    num_documents: int
    num_examples: int
    trainable_parameters: int


class BuiltExamples(NamedTuple):
    """The examples of the format, with those to hold out, and the number of documents that were used for them."""

    examples: list[Example]
    num_documents: int


def run(config: PretrainingConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Builds the examples, trains the prompt, evaluates it on held-out examples, and writes it to `out`."""
    backbone = load_backbone(config.backbone, frozen=True, engine=engine)
    if inputs.examples is None:
        examples, num_documents = build_examples(config, backbone, recorder)
    else:
        examples, num_documents = load_built_examples(config, inputs.examples)
    write_examples(out / "examples.jsonl", examples)
    held_out, train_set = examples[: config.num_held_out], examples[config.num_held_out :]
    recorder.log_table("examples", table_rows(train_set[:MAX_LOGGED]))

    vectors = init_vectors(config.init, config.num_virtual_tokens, backbone, torch_rng(config.seed, "start"))
    prompt = Prompt(PromptEmbedding(vectors)).to(backbone.device)
    classifier = ClozeClassifier.of(
        config.task, backbone.family, backbone, config.backbone, prompt, loss_kind=config.loss, engine=engine
    )
    before = classifier.evaluate(held_out, recorder, "held-out examples before training").score
    losses = tune(
        classifier, classifier.loss, train_set, (), config.training, seed=config.seed, recorder=recorder, engine=engine
    )
    write_losses(out, losses)
    save_tuned_prompt(classifier, out / "prompt", recorder)
    after = classifier.evaluate(held_out, recorder, "held-out examples").score
    recorder.log_metric("held_out/accuracy_before_training", before.accuracy)
    recorder.log_metric("held_out/accuracy", after.accuracy)
    final_losses = losses[-NUM_FINAL_LOSSES:]
    return Result(
        held_out_before=before,
        held_out=after,
        final_loss=sum(final_losses) / len(final_losses),
        num_documents=num_documents,
        num_examples=len(train_set),
        trainable_parameters=prompt.vectors.numel(),
    )


def build_examples(config: PretrainingConfig, backbone: Backbone, recorder: Recorder) -> BuiltExamples:
    """Builds the examples from a corpus.

    Raises:
        DataError: the corpus is too small for the format, or too few sentences are labeled with enough confidence.
        InputError: the classifier of the config cannot label the sentences.
    """
    requirements = corpus_requirements(config.format, config.num_options[1])
    corpus = Documents(config.corpus, requirements.sentences)
    window = Window(corpus, config.corpus.window)
    check_enough(corpus, window, requirements.documents, f"the format {config.format}")
    rng = python_rng(config.seed, "pairs" if config.format == "pair" else config.format)
    if config.format == "pair":
        examples = pair_examples(window, config.num_examples, rng)
    elif config.format == "single":
        labeler = PseudoLabeler.of(config.single, backbone, config.backbone, recorder)
        sentences = window.sentences(rng)
        examples = single_examples(config.single, labeler, sentences, config.num_examples, rng=rng, recorder=recorder)
    else:
        examples = choice_examples(window, config.num_examples, config.num_options, rng, name=config.format)
    return BuiltExamples(examples, corpus.num_taken)


def load_built_examples(config: PretrainingConfig, folder: Path) -> BuiltExamples:
    """Loads the examples that stages/prompt_pretraining/examples/stage.py built."""
    rng = python_rng(config.seed, config.format)
    num_documents: int = json.loads((folder / "result.json").read_text(encoding="utf-8"))["num_documents"]
    if config.format == "single":
        kept = confident_sentences(folder, config.single).kept
        return BuiltExamples(balanced(kept, config.num_examples, rng), num_documents)
    examples = examples_of(folder)
    rng.shuffle(examples)
    return BuiltExamples(examples, num_documents)
