"""Tunes a soft prompt and a linear head for token classification or question answering, over a frozen backbone.

In this setting P-tuning v2 claims to match fine-tuning (Liu et al., ACL 2022, sections 4 and 5).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stages.common.metrics.classification import EvaluationResult
from stages.common.models.backbones.config import LoraConfig
from stages.common.models.linear_heads import save_head
from stages.common.prompts.initialization import new_prompt, pretrained_vectors
from stages.common.prompts.inspection import log_inspection
from stages.common.prompts.peft_format import save_prompt, tidy
from stages.common.prompts.submodels import SubModel, new_submodel
from stages.common.protocols import Engine, Recorder
from stages.common.training.loop import train
from stages.token_level.config import TokenLevelServingConfig
from stages.token_level.loader import model_class_for
from stages.token_level.model import TokenLevelModel
from stages.token_level.tuning.config import TokenLevelTuningConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage of annotated texts; `pretrained`: files of the prompt-pretraining stage, if the
    prompt starts there.
    """

    data: Path
    pretrained: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores with the trained prompt. Files: the prompt in `prompt/` (PEFT's format), with LoRA weights in
    `prompt/lora/` if there are any, its head in `prompt/head.safetensors`; what it serves in `token_level_model.json`;
    `test_predictions.jsonl`.
    """

    final_loss: float


def run(config: TokenLevelTuningConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains prompt and head, tests them, and writes them to `out`."""

    lora = config.prompt.lora
    kind = model_class_for(config.task)
    train_set, dev_set, test_set = (kind.load(inputs.data / f"{name}.jsonl") for name in ("train", "dev", "test"))
    with new_submodel(
        config.backbone, "lora" if lora else "none", lora or LoraConfig(), config.seed, engine
    ) as submodel:
        reading = _new_model(config, inputs, submodel)
        final_loss, trainable = _trained(config, reading, submodel, (train_set, dev_set), recorder, engine)
        save_prompt(reading.prompt, submodel.backbone, out / "prompt", config.prompt.method)
        log_inspection(reading.prompt, submodel.backbone, recorder)
        save_head(reading.head, kind.outputs(config.task), out / "prompt")
        if lora:
            submodel.adapter.save_pretrained(out / "prompt" / "lora")
            tidy(out / "prompt" / "lora")
        TokenLevelServingConfig(task=config.task, backbone=config.backbone).save(out)
        test, guess = reading.evaluate(test_set, recorder, "test set")
    _write_predictions(out / "test_predictions.jsonl", test_set, guess)
    recorder.log_table("test_examples", reading.table(test_set, guess))
    for name in ("accuracy", "macro_f1", "entity_f1", "exact_match"):
        if (value := getattr(test, name)) is not None:
            recorder.log_metric(f"test/{name}", value)
    return Result(
        test=test,
        final_loss=final_loss,
        num_labeled=len(train_set),
        num_unlabeled=0,
        trainable_parameters=trainable,
    )


def _new_model(config: TokenLevelTuningConfig, inputs: Inputs, submodel: SubModel) -> TokenLevelModel[Any, Any, Any]:
    """Prompt and head before the first step."""

    backbone = submodel.backbone
    vectors = pretrained_vectors(config.prompt, backbone, inputs.pretrained)
    prompt = new_prompt(config.prompt, backbone, None, config.seed, pretrained=vectors)
    return model_class_for(config.task)(config.task, backbone, config.backbone, prompt)


def _trained(
    config: TokenLevelTuningConfig,
    reading: TokenLevelModel[Any, Any, Any],
    submodel: SubModel,
    sets: tuple[list[Any], list[Any]],
    recorder: Recorder,
    engine: Engine,
) -> tuple[float, int]:
    """Trains in place; returns the last loss, and how many parameters were trained."""

    train_set, dev_set = sets
    parameters = {**dict(reading.prompt.named_parameters()), **submodel.parameters}
    parameters |= {f"head.{name}": item for name, item in reading.head.named_parameters()}
    is_validated = config.training.early_stopping and dev_set
    validate = partial(reading.validate, dev_set, recorder) if is_validated else None
    if submodel.adapter is not None:
        submodel.backbone.model.train()
    losses = train(
        reading.items(train_set), reading.loss, parameters, config.training,
        seed=config.seed, recorder=recorder, engine=engine, validate=validate,
    )  # fmt: skip
    return losses[-1], sum(item.numel() for item in parameters.values())


def _write_predictions(path: Path, texts: list[Any], predicted: list[Any]) -> None:
    """One JSON object a line: uid, and what was found."""
    with path.open("w", encoding="utf-8") as file:
        for text, found in zip(texts, predicted, strict=True):
            file.write(json.dumps({"uid": text.uid, "found": found}, ensure_ascii=False) + "\n")
