"""Tunes a soft prompt for regression over a frozen backbone: the words at the ends of the range are interpolated.

Gao et al., "Making Pre-trained Language Models Better Few-shot Learners", ACL 2021, section 3.2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stages.common.data.step_outputs import write_losses
from stages.common.metrics.classification import EvaluationResult
from stages.common.models.cloze.prefix_cache import cached_loss
from stages.common.models.linear_heads import LinearHead
from stages.common.prompts.initialization import initialize_prompt
from stages.common.prompts.tuning import num_trainable_parameters, prompt_backbone, save_tuned_prompt, tune
from stages.common.protocols import Engine, Recorder
from stages.regression.config import ENDS, PATTERN, RegressionServingConfig
from stages.regression.examples import load_examples
from stages.regression.metrics import RegressionScore
from stages.regression.model import Regressor
from stages.regression.tuning.config import RegressionTuningConfig

MAX_LOGGED = 50
"""Rows of the table of predictions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage of regression; `pretrained`: files of prompt pretraining, for init: ppt;
    `sources`: files of the prompts that a mixture has.
    """

    data: Path
    pretrained: Path | None = None
    sources: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores with the trained prompt. Files: the prompt in `prompt/` (PEFT's format, where it has one), with LoRA
    weights in `prompt/lora/` and a linear head in `prompt/head.safetensors` if they were trained; its task and backbone
    in `regression_model.json`; `test_predictions.jsonl`; `losses.json`.
    """

    test: RegressionScore
    final_loss: float


def run(config: RegressionTuningConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the prompt, evaluates it, and writes it to `out`."""
    train_set, dev_set, test_set = (load_examples(inputs.data / f"{name}.jsonl") for name in ("train", "dev", "test"))
    dropout = config.prompt.backbone_dropout
    with prompt_backbone(config.backbone, config.prompt, config.seed, engine) as submodel:
        backbone = submodel.backbone
        prompt = initialize_prompt(
            config.prompt, config.task.ends, PATTERN, backbone,
            seed=config.seed, pretrained=inputs.pretrained, sources=inputs.sources,
        )  # fmt: skip
        has_head = config.prompt.head == "linear"
        head = LinearHead(backbone.hidden_size, len(ENDS)).to(backbone.device) if has_head else None
        model = Regressor(config.task, backbone, config.backbone, prompt, head=head, engine=engine)
        num_parameters = num_trainable_parameters(model)
        losses = tune(
            model, cached_loss(model.classifier, backbone_dropout=dropout), train_set, dev_set, config.training,
            seed=config.seed, recorder=recorder, engine=engine, frozen_steps=config.prompt.frozen_steps,
            backbone_dropout=dropout,
        )  # fmt: skip
        write_losses(out, losses)
        method, adapter = config.prompt.method, submodel.adapter
        save_tuned_prompt(model, out / "prompt", recorder, method=method, adapter=adapter, outputs=ENDS)
        RegressionServingConfig(task=config.task, backbone=config.backbone).save(out)
        test, predicted_n = model.evaluate(test_set, recorder, "test set")
    rows = [
        {"uid": item.uid, "value": item.value, "predicted": round(float(value), 6)}
        for item, value in zip(test_set, predicted_n, strict=True)
    ]
    (out / "test_predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    texts = [" | ".join(item.fields.values()) for item in test_set[:MAX_LOGGED]]
    recorder.log_table("test_examples", [{"text": text, **row} for text, row in zip(texts, rows, strict=False)])
    for name in ("pearson", "spearman", "mae", "rmse"):
        recorder.log_metric(f"test/{name}", getattr(test, name))
    return Result(
        test=test,
        final_loss=losses[-1],
        num_labeled=len(train_set),
        num_unlabeled=0,
        trainable_parameters=num_parameters,
    )
