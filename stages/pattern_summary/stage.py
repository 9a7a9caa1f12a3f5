"""The pattern-summary stage: the mean over patterns, the best one, and their ensemble; nothing is trained.

The accuracy of zero-shot prompting depends on the pattern, so papers report the mean over patterns with its deviation
(Sanh et al., ICLR 2022, https://arxiv.org/abs/2110.08207), or select one on labeled examples. The best pattern here is
selected on the labeled set, from which no pattern has learned, and never on the test set.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.common.data.step_outputs import aligned, read_logits, write_logits
from stages.common.errors import InputError
from stages.common.examples import load_examples
from stages.common.metrics.classification import EvaluationResult, Score
from stages.common.problems import problem_of
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import log_test_scores
from stages.pattern_summary.config import PatternSummaryConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `patterns`: files of the untrained patterns."""

    data: Path
    patterns: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores of the summary. Files: `test_logits.jsonl`, but for the mean."""

    selected: str | None
    """The best pattern, for method: best."""
    accuracy_std: float
    """Sample standard deviation of the test accuracy over patterns."""


def run(config: PatternSummaryConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Summarizes the patterns.

    Raises:
        InputError: method: best, and there are no labeled examples.
    """
    del engine
    results = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in inputs.patterns]
    rows = [
        {"pattern": name, "accuracy": result["test"]["accuracy"], "held_out_accuracy": result["held_out_accuracy"]}
        for name, result in zip(config.patterns, results, strict=True)
    ]
    recorder.log_table("patterns", rows)
    accuracy_std = statistics.stdev(row["accuracy"] for row in rows)
    recorder.log_metric("test/accuracy_std_over_patterns", accuracy_std)
    selected = None
    if config.method == "mean":
        test = _mean_score([result["test"] for result in results])
        recorder.log_metric("test/accuracy", test.accuracy)
    else:
        folders = inputs.patterns
        if config.method == "best":
            selected = _best(rows)
            folders = (folders[config.patterns.index(selected)],)
        test = _score(config, inputs.data, folders, out, recorder)
    return Result(
        test=test,
        selected=selected,
        accuracy_std=round(accuracy_std, 6),
        num_labeled=results[0]["num_labeled"],
        num_unlabeled=0,
        trainable_parameters=0,
    )


def _best(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the pattern with the highest accuracy on labeled examples; of equal ones the first."""
    if any(row["held_out_accuracy"] is None for row in rows):
        raise InputError(
            "the best pattern is selected on labeled examples, of which there are none.",
            "Set data.shots, or remove best.",
            key="pattern_summary.methods",
        )
    return str(max(rows, key=lambda row: row["held_out_accuracy"])["pattern"])


def _mean_score(scores: Sequence[dict[str, Any]]) -> Score:
    """Returns the mean of each metric; None if the patterns do not have it."""
    names = [item.name for item in fields(Score) if item.name != "num_examples"]
    means = {
        name: None if scores[0].get(name) is None else round(statistics.fmean(item[name] for item in scores), 6)
        for name in names
    }
    return Score(**{**asdict(Score(accuracy=0, macro_f1=0, mcc=None, ece=None, exact_match=None, num_examples=0)),
                    **means, "num_examples": scores[0]["num_examples"]})  # fmt: skip


def _score(config: PatternSummaryConfig, data: Path, folders: Sequence[Path], out: Path, recorder: Recorder) -> Score:
    """Returns the score of the mean probabilities of patterns, and writes their logits."""
    problem = problem_of(config.labels, config.problem_type)
    test_set = load_examples(data / "test.jsonl")
    uids = [item.uid for item in test_set]
    probabilities: list[NDArray[np.float64]] = [
        problem.probabilities(aligned(read_logits(folder / "test_logits.jsonl", config.labels), uids))
        for folder in folders
    ]
    logits = problem.logits(np.mean(probabilities, axis=0))
    write_logits(out / "test_logits.jsonl", test_set, logits, config.labels)
    return log_test_scores(logits, test_set, problem, recorder)
