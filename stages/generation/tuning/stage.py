"""Tunes a soft prompt for text generation over a frozen causal or seq2seq model, as prefix tuning was introduced for.

Li & Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021: table-to-text and summarization.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.common.data.step_outputs import write_losses
from stages.common.metrics.classification import EvaluationResult
from stages.common.prompts.initialization import new_prompt, pretrained_vectors
from stages.common.prompts.tuning import num_trainable_parameters, prompt_backbone, save_tuned_prompt, tune
from stages.common.protocols import Engine, Recorder
from stages.generation.config import GenerationServingConfig
from stages.generation.examples import GenerationExample, load_examples
from stages.generation.metrics import GenerationScore, score_texts
from stages.generation.model import TextGenerator
from stages.generation.packages import check_packages
from stages.generation.tuning.config import GenerationTuningConfig

MAX_LOGGED = 50
"""Rows of the table of generated texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage of generation; `pretrained`: files of prompt pretraining, for init: ppt."""

    data: Path
    pretrained: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores with the trained prompt. Files: the prompt in `prompt/` (PEFT's format), with LoRA weights in
    `prompt/lora/` if they were trained; its task and backbone in `generation_model.json`; `test_generated.jsonl`, the
    generated texts next to their references; `losses.json`.
    """

    test: GenerationScore
    final_loss: float
    num_cut_targets: int
    """Training targets that are longer than max_new_tokens."""
    bleu_signature: str
    """The settings of BLEU as sacrebleu writes them."""


def run(config: GenerationTuningConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the prompt, generates the texts of the test set, and writes both to `out`."""
    check_packages()
    train_set, dev_set, test_set = (load_examples(inputs.data / f"{name}.jsonl") for name in ("train", "dev", "test"))
    with prompt_backbone(config.backbone, config.prompt, config.seed, engine) as submodel:
        backbone = submodel.backbone
        vectors = pretrained_vectors(config.prompt, backbone, inputs.pretrained)
        prompt = new_prompt(config.prompt, backbone, config.task.input_pattern, seed=config.seed, pretrained=vectors)
        model = TextGenerator(config.task, backbone, config.backbone, prompt)
        num_parameters = num_trainable_parameters(model)
        losses = tune(
            model, model.loss, train_set, dev_set, config.training, seed=config.seed, recorder=recorder, engine=engine,
            frozen_steps=config.prompt.frozen_steps, backbone_dropout=config.prompt.backbone_dropout,
        )  # fmt: skip
        write_losses(out, losses)
        method, adapter = config.prompt.method, submodel.adapter
        save_tuned_prompt(model, out / "prompt", recorder, method=method, adapter=adapter)
        GenerationServingConfig(task=config.task, backbone=config.backbone).save(out)
        texts = model.generate(test_set, recorder, "test set")
        num_cut = sum(item.is_cut for item in model.items(train_set))
    test, signature = score_texts([item.references for item in test_set], texts, config.task.units)
    _write_texts(out / "test_generated.jsonl", test_set, texts)
    table = [
        {"input": " | ".join(item.fields.values()), "reference": item.references[0], "generated": text}
        for item, text in list(zip(test_set, texts, strict=True))[:MAX_LOGGED]
    ]
    recorder.log_table("test_examples", table)
    for name in ("bleu", "chrf", "rouge_2", "rouge_l", "macro_f1", "exact_match"):
        recorder.log_metric(f"test/{name}", getattr(test, name))
    return Result(
        test=test,
        final_loss=losses[-1],
        num_labeled=len(train_set),
        num_unlabeled=0,
        trainable_parameters=num_parameters,
        num_cut_targets=num_cut,
        bleu_signature=signature,
    )


def _write_texts(path: Path, examples: Sequence[GenerationExample], texts: Sequence[str]) -> None:
    """Writes one JSON object per line: uid, references and the generated text."""
    with path.open("w", encoding="utf-8") as file:
        for example, text in zip(examples, texts, strict=True):
            row = {"uid": example.uid, "references": example.references, "generated": text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
