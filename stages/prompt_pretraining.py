"""The PPT stage: a soft prompt learns a self-supervised task from raw text, over a frozen backbone.

Gu et al., "PPT: Pre-trained Prompt Tuning for Few-shot Learning", ACL 2022. The format here is `pair`: how do two
sentences relate? Downstream tasks start their prompts from the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from stages.measures.metrics import Score
from stages.models.backbones import BackboneConfig
from stages.prompts.start import StartConfig
from stages.protocols import Engine, Recorder
from stages.tasks import Task
from stages.texts.corpora import RELATIONS, CorpusConfig
from stages.training.loop import LoopConfig

PAIR_TASK = Task(
    name="pair",
    labels=RELATIONS,
    patterns={
        "masked": "{first} {mask}. {second}",
        "causal": "{first}\n{second}\nAdjacent:{mask}",
        "seq2seq": "{first} {mask}. {second}",
    },
    verbalizer={relation: [relation] for relation in RELATIONS},
)
"""The pretraining task as a cloze task, with a pattern for each family of backbones."""


class Config(BaseModel, frozen=True, extra="forbid"):
    """A prompt and the text that it is pretrained on."""

    backbone: BackboneConfig = Field(description="The frozen language model.")
    corpus: CorpusConfig = Field(description="The raw text.")
    num_vectors: int = Field(16, ge=1, description="Vectors of the prompt.")
    start: StartConfig = Field(StartConfig(), description="Where the prompt starts.")
    loop: LoopConfig = Field(description="Length and rates of the training.")
    num_held_out: int = Field(120, ge=3, description="Examples kept aside to measure what was learnt.")
    seed: int = Field(description="Seed of examples, start and order.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """No upstream step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What the prompt learnt. Files: the prompt in `prompt/` (PEFT's format), and the built examples in
    `examples.jsonl`.
    """

    held_out_before: Score
    held_out: Score
    final_loss: float
    num_documents: int
    num_examples: int
    trainable_parameters: int


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Builds the examples, trains the prompt, measures it on held-out examples, and writes it to `out`."""
    del inputs
    from stages.models.backbones import load
    from stages.patterns.cloze import ClozeClassifier
    from stages.prompts.peft_format import save_prompt
    from stages.prompts.prompt import Prompt
    from stages.prompts.start import start_vectors
    from stages.prompts.vectors import Table
    from stages.seeds import python_rng, torch_rng
    from stages.texts.corpora import documents, pair_examples
    from stages.texts.data import write_examples
    from stages.training.loop import train

    corpus = list(documents(config.corpus))
    num_built = config.corpus.num_examples + config.num_held_out
    examples = pair_examples(corpus, num_built, python_rng(config.seed, "pairs"))
    write_examples(out / "examples.jsonl", examples)
    held_out, examples = examples[: config.num_held_out], examples[config.num_held_out :]
    recorder.table("examples", [{**item.fields, "label": item.label} for item in examples[:30]])

    backbone = load(config.backbone, frozen=True)
    vectors = start_vectors(config.start, config.num_vectors, backbone, torch_rng(config.seed, "start"))
    prompt = Prompt(Table(vectors)).to(backbone.device)
    classifier = ClozeClassifier.of(PAIR_TASK, backbone.family, backbone, config.backbone, prompt)
    before, _ = classifier.evaluate(held_out, recorder, "held-out pairs before training")
    losses = train(
        classifier.items(examples), classifier.loss, dict(prompt.named_parameters()), config.loop,
        seed=config.seed, recorder=recorder, engine=engine,
    )  # fmt: skip
    save_prompt(prompt, backbone, out / "prompt")
    after, _ = classifier.evaluate(held_out, recorder, "held-out pairs")
    recorder.metric("held_out/accuracy_before", before.accuracy)
    recorder.metric("held_out/accuracy", after.accuracy)
    return Result(
        held_out_before=before,
        held_out=after,
        final_loss=sum(losses[-10:]) / len(losses[-10:]),
        num_documents=len(corpus),
        num_examples=len(examples),
        trainable_parameters=prompt.vectors.numel(),
    )
