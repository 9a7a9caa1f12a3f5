"""The PET stage: one sub-model, that is one pattern trained with one seed on the few labelled examples.

Schick & Schütze, "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference", EACL
2021. With `tune: none` nothing is trained, and the stage measures the pattern zero-shot.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, model_validator

from stages.backbones import BackboneConfig
from stages.loop import LoopConfig
from stages.metrics import Measured
from stages.protocols import Engine, Recorder
from stages.submodels import LoraConfig, Tune
from stages.tasks import Task


class Config(BaseModel, frozen=True, extra="forbid"):
    """One sub-model."""

    task: Task = Field(description="Labels, patterns and label words.")
    pattern: str = Field(description="Name of the pattern to train.")
    backbone: BackboneConfig = Field(description="The language model.")
    tune: Tune = Field(description="What is trained: full (all weights), lora (adapters), none (zero-shot).")
    lora: LoraConfig = Field(LoraConfig(), description="Adapters, for tune: lora.")
    loop: LoopConfig | None = Field(description="Length and rates of the training; none for tune: none.")
    seed: int = Field(description="Seed of order, dropout and new weights.")

    @model_validator(mode="after")
    def _loop_fits(self) -> Config:
        if (self.loop is None) != (self.tune == "none"):
            raise ValueError("tune: none takes no loop, and every other tune needs one. Mend tune or loop.")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Measured):
    """Scores of the sub-model. `train_accuracy_before` is the ensemble's accuracy weight.

    Files: the sub-model (see stages/submodels.py) and `test_logits.jsonl`.
    """

    train_accuracy_before: float
    final_loss: float | None


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the sub-model, tests it, and writes it to `out`."""
    from stages.cloze import ClozeClassifier
    from stages.data import load_examples
    from stages.logits import write_logits
    from stages.loop import train
    from stages.submodels import SubModel

    train_set = load_examples(inputs.data / "train.jsonl")
    test_set = load_examples(inputs.data / "test.jsonl")
    submodel = SubModel.fresh(config.backbone, config.tune, config.lora, config.seed)
    parameters = submodel.parameters
    classifier = ClozeClassifier.of(config.task, config.pattern, submodel.backbone, config.backbone)
    before, _ = classifier.evaluate(train_set, recorder, "labelled set before training")
    losses: list[float] = []
    if config.loop is not None:
        submodel.backbone.model.train()
        losses = train(
            classifier.items(train_set), classifier.loss, parameters, config.loop,
            seed=config.seed, recorder=recorder, engine=engine,
        )  # fmt: skip
    submodel.save(config.pattern, out)
    test, logits = classifier.evaluate(test_set, recorder, "test set")
    write_logits(out / "test_logits.jsonl", test_set, logits, config.task.labels)
    recorder.metric("train/accuracy_before", before.accuracy)
    recorder.metric("test/accuracy", test.accuracy)
    recorder.metric("test/macro_f1", test.macro_f1)
    return Result(
        test=test,
        train_accuracy_before=before.accuracy,
        final_loss=losses[-1] if losses else None,
        num_labelled=len(train_set) if losses else 0,
        num_unlabelled=0,
        trainable_parameters=sum(parameter.numel() for parameter in parameters.values()),
    )
