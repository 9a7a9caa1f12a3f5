"""The prompt-search stage: cross-validates one setting of prompt tuning on the labeled examples.

Each fold is predicted by a prompt that is trained on the other folds. No prompt is kept, and no label of the test set
is read. With `early_stopping`, folds stop by the dev set, as a training of the recipe does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.common.data.groups import group_numbers
from stages.common.data.step_outputs import write_logits
from stages.common.errors import InputError
from stages.common.examples import label_indices, load_examples
from stages.common.prompts.tuning import prompt_backbone
from stages.common.protocols import Engine, NullRecorder, Recorder
from stages.common.training.cross_validation import Indices, held_out_logits
from stages.common.training.evaluation import HELD_OUT_FILE
from stages.common.training.untrained_scores import HeldOutScore
from stages.prompt_tuning.search.config import PromptSearchConfig
from stages.prompt_tuning.training import tune_prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `pretrained`: files of prompt pretraining, for init: ppt; `sources`: files of
    the prompts that a mixture has.
    """

    data: Path
    pretrained: Path | None = None
    sources: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How well the prompts of the folds predict the labeled examples. Files: `held_out_logits.jsonl`."""

    held_out: HeldOutScore
    standard_error: float
    """Standard error of the accuracy, from the number of labeled examples."""
    num_labeled: int
    trainable_parameters: int


def run(config: PromptSearchConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains one prompt per fold, and writes the held-out logits to `out`.

    Raises:
        InputError: no example can be held out.
    """
    train_set, dev_set = (load_examples(inputs.data / f"{name}.jsonl") for name in ("train", "dev"))
    labels, num_parameters = config.task.labels, 0

    def fit_and_predict(fold: int, fitted: Indices, held_out: Indices) -> NDArray[np.float64]:
        nonlocal num_parameters
        recorder.log_progress(fold, config.num_folds, phase="folds of the cross-validation")
        with prompt_backbone(config.backbone, config.prompt, config.seed, engine) as submodel:
            tuned = tune_prompt(
                config, submodel.backbone, [train_set[row] for row in fitted], dev_set,
                pretrained=inputs.pretrained, sources=inputs.sources,
                recorder=recorder if fold == 0 else NullRecorder(), engine=engine, name=f"fold-{fold}",
            )  # fmt: skip
            num_parameters = tuned.num_parameters
            return tuned.classifier.predict([train_set[row] for row in held_out], NullRecorder(), "")

    gold = label_indices(train_set, labels)
    groups = group_numbers(train_set, config.task.fields)
    logits = held_out_logits(gold, len(labels), config.num_folds, fit_and_predict, groups=groups)
    if logits is None:
        raise InputError(
            "a search needs two labeled examples of a label that do not belong together.",
            "Add labeled examples.",
            key="data.shots",
        )
    write_logits(out / HELD_OUT_FILE, train_set, logits, labels)
    score = HeldOutScore.of(logits, np.array(gold))
    recorder.log_metric("train/held_out_accuracy", score.accuracy)
    recorder.log_metric("train/held_out_loss", score.loss)
    return Result(
        held_out=score,
        standard_error=math.sqrt(score.accuracy * (1 - score.accuracy) / len(train_set)),
        num_labeled=len(train_set),
        trainable_parameters=num_parameters,
    )
