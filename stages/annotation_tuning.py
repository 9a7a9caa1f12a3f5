"""The stage that tunes a soft prompt and a linear head for token labels or answer spans, over a frozen backbone.

It is the setting in which P-tuning v2 claims to be as good as fine-tuning (Liu et al., ACL 2022, sections 4 and 5).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from stages.annotations.tasks import SpanTask, TokenTask
from stages.measures.metrics import Measured
from stages.models.backbones import BackboneConfig
from stages.prompts.methods import PromptConfig
from stages.protocols import Engine, Recorder
from stages.training.loop import LoopConfig

if TYPE_CHECKING:
    from stages.annotations.reading import Reading
    from stages.models.submodels import SubModel


class Config(BaseModel, frozen=True, extra="forbid"):
    """A task and its prompt."""

    task: TokenTask | SpanTask = Field(discriminator="kind", description="What is asked of the texts.")
    backbone: BackboneConfig = Field(description="The frozen language model.")
    prompt: PromptConfig = Field(description="Method and settings of the prompt.")
    loop: LoopConfig = Field(description="Length and rates of the training.")
    seed: int = Field(description="Seed of start and order.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage of annotated texts; `pretrained`: files of the prompt-pretraining stage, if the
    prompt starts there.
    """

    data: Path
    pretrained: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Measured):
    """Scores with the trained prompt. Files: the prompt in `prompt/` (PEFT's format), with LoRA weights in
    `prompt/lora/` if there are any, its head in `prompt/head.safetensors`; what it serves in `annotating.json`;
    `test_predictions.jsonl`.
    """

    final_loss: float


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains prompt and head, tests them, and writes them to `out`."""
    from stages.annotations.serving import Annotating, reading_of
    from stages.models.adapters import tidy
    from stages.models.submodels import LoraConfig, fresh
    from stages.prompts.head import save_head
    from stages.prompts.peft_format import save_prompt
    from stages.prompts.showing import show

    lora = config.prompt.lora
    kind = reading_of(config.task)
    train_set, dev_set, test_set = (kind.load(inputs.data / f"{name}.jsonl") for name in ("train", "dev", "test"))
    with fresh(config.backbone, "lora" if lora else "none", lora or LoraConfig(), config.seed, engine) as submodel:
        reading = _started(config, inputs, submodel)
        final_loss, trainable = _trained(config, reading, submodel, (train_set, dev_set), recorder, engine)
        save_prompt(reading.prompt, submodel.backbone, out / "prompt", config.prompt.method)
        show(reading.prompt, submodel.backbone, recorder)
        save_head(reading.head, kind.outputs(config.task), out / "prompt")
        if lora:
            submodel.adapter.save_pretrained(out / "prompt" / "lora")
            tidy(out / "prompt" / "lora")
        Annotating(task=config.task, backbone=config.backbone).save(out)
        test, guess = reading.evaluate(test_set, recorder, "test set")
    _write_predictions(out / "test_predictions.jsonl", test_set, guess)
    recorder.table("test_examples", reading.table(test_set, guess))
    for name in ("accuracy", "macro_f1", "entity_f1", "exact_match"):
        if (value := getattr(test, name)) is not None:
            recorder.metric(f"test/{name}", value)
    return Result(
        test=test,
        final_loss=final_loss,
        num_labelled=len(train_set),
        num_unlabelled=0,
        trainable_parameters=trainable,
    )


def _started(config: Config, inputs: Inputs, submodel: SubModel) -> Reading[Any, Any, Any]:
    """Prompt and head before the first step."""
    from stages.annotations.serving import reading_of
    from stages.prompts.prompt import fresh, pretrained_vectors

    backbone = submodel.backbone
    vectors = pretrained_vectors(config.prompt, backbone, inputs.pretrained)
    prompt = fresh(config.prompt, backbone, None, config.seed, pretrained=vectors)
    return reading_of(config.task)(config.task, backbone, config.backbone, prompt)


def _trained(
    config: Config,
    reading: Reading[Any, Any, Any],
    submodel: SubModel,
    sets: tuple[list[Any], list[Any]],
    recorder: Recorder,
    engine: Engine,
) -> tuple[float, int]:
    """Trains in place; returns the last loss, and how many parameters were trained."""
    from stages.training.loop import train

    train_set, dev_set = sets
    parameters = {**dict(reading.prompt.named_parameters()), **submodel.parameters}
    parameters |= {f"head.{name}": item for name, item in reading.head.named_parameters()}
    validate: Callable[[], tuple[float, float]] | None = None
    if config.loop.early_stopping and dev_set:
        validate = lambda: reading.validate(dev_set, recorder)  # noqa: E731
    if submodel.adapter is not None:
        submodel.backbone.model.train()
    losses = train(
        reading.items(train_set), reading.loss, parameters, config.loop,
        seed=config.seed, recorder=recorder, engine=engine, validate=validate,
    )  # fmt: skip
    return losses[-1], sum(item.numel() for item in parameters.values())


def _write_predictions(path: Path, texts: list[Any], guess: list[Any]) -> None:
    """One JSON object a line: uid, and what was found."""
    with path.open("w", encoding="utf-8") as file:
        for text, found in zip(texts, guess, strict=True):
            file.write(json.dumps({"uid": text.uid, "found": found}, ensure_ascii=False) + "\n")
