"""The prompt-tuning stage: a soft prompt learns a downstream task on the few labelled examples, over a frozen backbone.

Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021; hybrid with a hard pattern as in
PPT (Gu et al., ACL 2022). The prompt starts from a pretrained one, where the step has one upstream, else as `start`
says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from stages.measures.metrics import Measured
from stages.models.backbones import BackboneConfig
from stages.prompts.start import StartConfig
from stages.protocols import Engine, Recorder
from stages.tasks import Task
from stages.training.loop import LoopConfig


class Config(BaseModel, frozen=True, extra="forbid"):
    """A task, its hard pattern, and the prompt before it."""

    task: Task = Field(description="Labels, patterns and label words.")
    pattern: str = Field(description="Name of the hard pattern behind the prompt.")
    backbone: BackboneConfig = Field(description="The frozen language model.")
    num_vectors: int = Field(16, ge=1, description="Vectors of a prompt that is not pretrained.")
    start: StartConfig | None = Field(description="Where the prompt starts; none: from the pretrained prompt upstream.")
    loop: LoopConfig = Field(description="Length and rates of the training.")
    seed: int = Field(description="Seed of start and order.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `pretrained`: files of the prompt-pretraining stage, if the prompt starts
    there.
    """

    data: Path
    pretrained: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Measured):
    """Scores with the trained prompt. Files: the prompt in `prompt/` (PEFT's format), `test_logits.jsonl`."""

    final_loss: float


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the prompt, tests it, and writes it to `out`."""
    from stages.models.backbones import load
    from stages.patterns.cloze import ClozeClassifier
    from stages.prompts.peft_format import load_prompt, save_prompt
    from stages.prompts.start import start_vectors
    from stages.prompts.table import SoftPrompt
    from stages.seeds import torch_rng
    from stages.texts.data import load_examples
    from stages.texts.logits import write_logits
    from stages.training.loop import train

    train_set = load_examples(inputs.data / "train.jsonl")
    test_set = load_examples(inputs.data / "test.jsonl")
    backbone = load(config.backbone, frozen=True)
    if config.start is None:
        assert inputs.pretrained is not None, "a step without a start has a pretrained prompt upstream"
        prompt = load_prompt(inputs.pretrained / "prompt", backbone)
    else:
        vectors = start_vectors(config.start, config.num_vectors, backbone, torch_rng(config.seed, "start"))
        prompt = SoftPrompt(vectors).to(backbone.device)
    classifier = ClozeClassifier.of(config.task, config.pattern, backbone, config.backbone, prompt)
    losses = train(
        classifier.items(train_set), classifier.loss, dict(prompt.named_parameters()), config.loop,
        seed=config.seed, recorder=recorder, engine=engine,
    )  # fmt: skip
    save_prompt(prompt, backbone, out / "prompt")
    test, logits = classifier.evaluate(test_set, recorder, "test set")
    write_logits(out / "test_logits.jsonl", test_set, logits, config.task.labels)
    recorder.metric("test/accuracy", test.accuracy)
    recorder.metric("test/macro_f1", test.macro_f1)
    return Result(
        test=test,
        final_loss=losses[-1],
        num_labelled=len(train_set),
        num_unlabelled=0,
        trainable_parameters=prompt.vectors.numel(),
    )
