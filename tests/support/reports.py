"""Results of measured steps, written to a folder by hand, and the report on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.canonical_json import plain
from cluster.steps.step import Step
from pipelines.kinds import KINDS
from pipelines.report import stage
from pipelines.report.config import MeasuredStep, ReportConfig
from stages.common.data.step_outputs import write_logits, write_losses
from stages.common.engine import InProcessEngine
from stages.common.examples import Example
from stages.common.protocols import NullRecorder
from tests.support.steps import toy

LABELS = ("rotten", "fresh")
RUN = {"executed": 3, "cached": 0, "wall_s": 5.0}


def labels_of(name: str) -> dict[str, str]:
    """The labels that the DAG gives to a step of the usual name."""
    kind, *rest = name.split("/")
    labels: dict[str, str] = {}
    if kind in KINDS and KINDS[kind].has_seed:
        labels["seed"] = rest.pop()
    if kind in KINDS and KINDS[kind].row:
        labels["row"] = "/".join([{"soft_labels": "ensemble", "distill": "student"}.get(kind, kind), *rest])
    if kind in ("distill", "baseline"):
        labels |= {"student": rest[0], "model": "encoder"}
    if kind in ("pet", "zero_shot", "priming"):
        generation = next((part[1:] for part in rest[:-1] if part[1:].isdigit()), "0")
        labels |= {"pattern": rest[-1]} | ({"member": "pet", "generation": generation} if kind == "pet" else {})
    if kind in ("probe", "finetuned", "tfidf", "word_vectors", "nli", "llm"):
        labels["member"] = name
    if kind in ("prompts", "data", "instructed", "knowledge_probing"):
        labels["task"] = rest[0]
    if kind in ("prompts", "chain_of_thought", "pattern_summary", "knowledge_probing"):
        labels["method"] = rest[-1]
    return labels | ({"format": rest[0]} if kind == "ppt" else {})


def measured(name: str) -> MeasuredStep:
    """A step of the usual name, as the report's config has it."""
    return MeasuredStep(name=name, kind=name.split("/")[0], labels=labels_of(name))


def graph_step(name: str, **inputs: Any) -> Step:
    """A step of the usual name, with its kind and labels."""
    return replace(toy(name, **inputs), kind=name.split("/")[0], labels=labels_of(name))


def write_result(root: Path, step: str, result: dict[str, Any], losses: Sequence[float] = ()) -> None:
    (root / step).mkdir(parents=True)
    (root / step / "result.json").write_text(json.dumps(result))
    write_losses(root / step, list(losses))


def scores(accuracy: float, num_examples: int, **more: Any) -> dict[str, Any]:
    """The result of a step with this test accuracy."""
    test = {"accuracy": accuracy, "macro_f1": accuracy / 2, "mcc": 2 * accuracy - 1, "ece": 0.1, "exact_match": None}
    return {
        "test": {**test, "num_examples": num_examples} | more.pop("test", {}),
        "num_labeled": 16,
        "num_unlabeled": 1000,
        "trainable_parameters": 2048,
        **more,
    }


def write_predictions(
    root: Path,
    step: str,
    correct: Sequence[int],
    *,
    uids: Sequence[str] = (),
    losses: Sequence[float] = (),
    **more: Any,
) -> None:
    """Writes a step whose n-th test example is predicted correctly if `correct[n]` is 1, the first most confidently."""
    size = len(correct)
    uids = uids or [f"test-{number}" for number in range(size)]
    examples = [Example(uid, {"text": uid}, LABELS[number % 2]) for number, uid in enumerate(uids)]
    logits = np.zeros((size, 2))
    for number, is_correct in enumerate(correct):
        logits[number, number % 2 if is_correct else 1 - number % 2] = 3 - 2.5 * number / size
    if step == "soft_labels":
        more = {"votes": [], **more}
    write_result(root, step, scores(sum(correct) / size, size, **more), losses)
    write_logits(root / step / "test_logits.jsonl", examples, logits, LABELS)


def report_on(root: Path, *steps: str, recipe: str = "films", **config: Any) -> dict[str, Any]:
    """Runs the report stage on these steps, writes to `root/report`, and returns its result as JSON values."""
    out = root / "report"
    out.mkdir()
    settings = ReportConfig(recipe=recipe, task="films", measured=tuple(map(measured, steps)), **config)
    inputs = stage.Inputs(measured=tuple(root / step for step in steps))
    result = plain(stage.run(settings, inputs, out, NullRecorder(), InProcessEngine()))
    assert isinstance(result, dict)
    return result
