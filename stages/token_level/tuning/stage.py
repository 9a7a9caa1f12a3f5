"""Tunes a soft prompt and a linear head for token classification or question answering, over a frozen backbone.

In this setting P-tuning v2 claims to match fine-tuning (Liu et al., ACL 2022, sections 4 and 5).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.metrics.classification import EvaluationResult
from stages.common.prompts.initialization import new_prompt, pretrained_vectors, source_vectors
from stages.common.prompts.tuning import num_trainable_parameters, prompt_backbone, save_tuned_prompt, tune
from stages.common.protocols import Engine, Recorder
from stages.token_level.config import TokenLevelServingConfig
from stages.token_level.examples import TokenLevelExample
from stages.token_level.heads import model_class_for
from stages.token_level.tuning.config import TokenLevelTuningConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the token-level split stage; `pretrained`: files of prompt pretraining, for init: ppt;
    `sources`: files of the prompts that a mixture has.
    """

    data: Path
    pretrained: Path | None = None
    sources: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores with the trained prompt. Files: the prompt in `prompt/` (PEFT's format), with its head in
    `prompt/head.safetensors` and LoRA weights in `prompt/lora/` if they were trained; its task and backbone in
    `token_level_model.json`; `test_predictions.jsonl`.
    """

    final_loss: float


def run(config: TokenLevelTuningConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains prompt and head, evaluates them, and writes them to `out`."""
    model_class = model_class_for(config.task)
    train_set, dev_set, test_set = (
        model_class.load(inputs.data / f"{name}.jsonl") for name in ("train", "dev", "test")
    )
    with prompt_backbone(config.backbone, config.prompt, config.seed, engine) as submodel:
        backbone = submodel.backbone
        vectors = pretrained_vectors(config.prompt, backbone, inputs.pretrained)
        sources = source_vectors(inputs.sources, backbone)
        prompt = new_prompt(config.prompt, backbone, None, seed=config.seed, pretrained=vectors, sources=sources)
        model = model_class(config.task, backbone, config.backbone, prompt)
        num_parameters = num_trainable_parameters(model)
        losses = tune(
            model, model.loss, train_set, dev_set, config.training, seed=config.seed, recorder=recorder, engine=engine,
            backbone_dropout=config.prompt.backbone_dropout,
        )  # fmt: skip
        save_tuned_prompt(
            model,
            out / "prompt",
            recorder,
            method=config.prompt.method,
            adapter=submodel.adapter,
            outputs=model_class.outputs(config.task),
        )
        TokenLevelServingConfig(task=config.task, backbone=config.backbone).save(out)
        test, predicted = model.evaluate(test_set, recorder, "test set")
    _write_predictions(out / "test_predictions.jsonl", test_set, predicted)
    recorder.log_table("test_examples", model.table(test_set, predicted))
    for name in ("accuracy", "macro_f1", "entity_f1", "exact_match"):
        if (value := getattr(test, name)) is not None:
            recorder.log_metric(f"test/{name}", value)
    return Result(
        test=test,
        final_loss=losses[-1],
        num_labeled=len(train_set),
        num_unlabeled=0,
        trainable_parameters=num_parameters,
    )


def _write_predictions(path: Path, examples: Sequence[TokenLevelExample], predicted: Sequence[Any]) -> None:
    """Writes one JSON object per line: uid and prediction."""
    with path.open("w", encoding="utf-8") as file:
        for example, prediction in zip(examples, predicted, strict=True):
            file.write(json.dumps({"uid": example.uid, "predicted": prediction}, ensure_ascii=False) + "\n")
