"""Generates the texts of the test set with a trained prompt, and scores them.

It is a step of its own, so that a change of how texts are decoded or counted trains no prompt again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.common.data.step_outputs import LOSSES_FILE
from stages.common.metrics.classification import EvaluationResult
from stages.common.prompts.loader import trained_prompt
from stages.common.protocols import Engine, Recorder
from stages.generation.config import GenerationServingConfig
from stages.generation.evaluation.config import GenerationEvaluationConfig
from stages.generation.examples import GenerationExample, load_examples
from stages.generation.metrics import GenerationScore, score_texts
from stages.generation.model import TextGenerator
from stages.generation.packages import check_packages

MAX_LOGGED = 50
"""Rows of the table of generated texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage of generation; `tuned`: files of the tuning stage."""

    data: Path
    tuned: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores with the trained prompt. Files: `prompt/` of the tuning stage, its task and backbone in
    `generation_model.json`; `test_generated.jsonl`, the generated texts next to their references; `losses.json`.
    """

    test: GenerationScore
    final_loss: float
    num_cut_targets: int
    """Training targets that are longer than max_new_tokens."""
    bleu_signature: str
    """The settings of BLEU as sacrebleu writes them."""


def run(config: GenerationEvaluationConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Generates the texts, and writes them to `out` with all that is needed to generate more."""
    check_packages()
    test_set = load_examples(inputs.data / "test.jsonl")
    with trained_prompt(inputs.tuned, config.backbone, engine) as trained:
        model = TextGenerator(
            config.task, trained.backbone, config.backbone, trained.prompt, decoding=config.task.decoding
        )
        texts = model.generate(test_set, recorder, "test set", engine)
    shutil.copytree(inputs.tuned / "prompt", out / "prompt")
    shutil.copyfile(inputs.tuned / LOSSES_FILE, out / LOSSES_FILE)
    GenerationServingConfig(task=config.task, backbone=config.backbone).save(out)
    test, signature = score_texts([item.references for item in test_set], texts, config.task.units)
    _write_texts(out / "test_generated.jsonl", test_set, texts)
    table = [
        {"input": " | ".join(item.fields.values()), "reference": item.references[0], "generated": text}
        for item, text in list(zip(test_set, texts, strict=True))[:MAX_LOGGED]
    ]
    recorder.log_table("test_examples", table)
    for name in ("bleu", "chrf", "rouge_2", "rouge_l", "macro_f1", "exact_match"):
        recorder.log_metric(f"test/{name}", getattr(test, name))
    training = json.loads((inputs.tuned / "result.json").read_text(encoding="utf-8"))
    return Result(
        test=test,
        final_loss=training["final_loss"],
        num_labeled=training["num_train"],
        num_unlabeled=0,
        trainable_parameters=training["trainable_parameters"],
        num_cut_targets=training["num_cut_targets"],
        bleu_signature=signature,
    )


def _write_texts(path: Path, examples: Sequence[GenerationExample], texts: Sequence[str]) -> None:
    """Writes one JSON object per line: uid, references and the generated text."""
    with path.open("w", encoding="utf-8") as file:
        for example, text in zip(examples, texts, strict=True):
            row = {"uid": example.uid, "references": example.references, "generated": text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
