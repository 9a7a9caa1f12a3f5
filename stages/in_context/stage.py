"""The stage of in-context learning: scores each text after labeled demonstrations. Nothing is trained.

Brown et al., "Language Models are Few-Shot Learners", NeurIPS 2020. Lu et al., "Fantastically Ordered Prompts", ACL
2022, show how much the order of demonstrations decides, so several orders can be averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.common.errors import InputError
from stages.common.examples import Example, load_examples, table_rows
from stages.common.metrics.classification import EvaluationResult, softmax
from stages.common.models.averaging import calibrate
from stages.common.models.backbones.loader import borrow_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.config import CONTENT_FREE_TEXTS
from stages.common.patterns.search_results import searched_task
from stages.common.problems import problem_of
from stages.common.protocols import Engine, NullRecorder, Recorder
from stages.common.seeds import python_rng
from stages.common.training.evaluation import evaluate_on_test
from stages.in_context.config import InContextConfig
from stages.in_context.demonstrations import Demonstrations, selector

MAX_REFERENCES = 100
"""Unlabeled texts that calibration reads."""
NUM_DOMAIN_TEXTS = 20
"""Texts of random words that calibration reads, as in Fei et al."""
MAX_LOGGED = 100
"""Rows of the table of demonstrations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `verbalizer`: files of the verbalizer search, if the task has no words;
    `pattern_search`: files of the pattern search, if the recipe has one.
    """

    data: Path
    verbalizer: Path | None = None
    pattern_search: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores on the test set. Files: `test_logits.jsonl`."""

    demonstrations_per_text: float
    """Mean number of demonstrations that fit before a text."""


def run(config: InContextConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Scores the test set."""
    task = searched_task(config.task, verbalizer=inputs.verbalizer, pattern_search=inputs.pattern_search)
    train_set = load_examples(inputs.data / "train.jsonl")
    select = selector(config, train_set, task.labels, task.fields, config.seed)
    with borrow_backbone(config.backbone, engine) as backbone:
        classifier = ClozeClassifier.of(task, config.pattern, backbone, config.backbone, engine=engine)
        demonstrations = Demonstrations(classifier, train_set, select)
        primed = _InContextModel(config, classifier, demonstrations, _references(config, inputs.data, train_set))
        test = evaluate_on_test(primed, problem_of(task.labels, task.problem_type), inputs.data, out, recorder)
        used = select(load_examples(inputs.data / "test.jsonl")[0])
    recorder.log_table("demonstrations", table_rows([train_set[row] for row in used][:MAX_LOGGED]))
    recorder.log_metric("demonstrations/fraction_read", demonstrations.num_read / demonstrations.num_selected)
    return Result(
        test=test,
        num_labeled=len(train_set) if config.selection == "retrieved" else len(used),
        num_unlabeled=0,
        trainable_parameters=0,
        demonstrations_per_text=round(demonstrations.num_read / demonstrations.num_texts, 2),
    )


class _InContextModel:
    """Averages over orders, and calibrates."""

    def __init__(
        self,
        config: InContextConfig,
        classifier: ClozeClassifier,
        demonstrations: Demonstrations,
        references: Sequence[Example],
    ) -> None:
        self._config = config
        self._classifier = classifier
        self._demonstrations = demonstrations
        self._references = references

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns the logs of label probabilities, [n, C], in the order of `examples`."""
        probabilities = []
        for number in range(self._config.num_orders):
            self._demonstrations.order = self._order(number)
            logits = self._classifier.predict(examples, recorder, phase)
            if self._references:
                logits = calibrate(logits, self._classifier.predict(self._references, NullRecorder(), ""))
            probabilities.append(softmax(logits))
        mean: NDArray[np.float64] = np.log(np.maximum(np.mean(probabilities, axis=0), 1e-12))
        return mean

    def _order(self, number: int) -> _Order:
        return _Order(self._config.seed, number)


@dataclass(frozen=True, slots=True)
class _Order:
    """One order of demonstrations; the first one is the order of the selection."""

    seed: int
    number: int

    def __call__(self, rows: Sequence[int]) -> Sequence[int]:
        if not self.number:
            return rows
        return python_rng(self.seed, "order", self.number).sample(list(rows), len(rows))


def _references(config: InContextConfig, data: Path, train_set: Sequence[Example]) -> list[Example]:
    """Returns the texts whose mean label distribution is the prior preference of the backbone.

    Raises:
        InputError: there are no unlabeled texts.
    """
    fields = config.task.fields
    if config.calibration == "contextual":
        return [Example(f"neutral-{text}", dict.fromkeys(fields, text)) for text in CONTENT_FREE_TEXTS]
    if config.calibration == "domain":
        return _random_texts(train_set, fields, config.seed)
    if config.calibration == "none":
        return []
    unlabeled = load_examples(data / "unlabeled.jsonl")[:MAX_REFERENCES]
    if not unlabeled:
        raise InputError(
            "calibration: batch needs unlabeled texts, but there are none.",
            "Add data.unlabeled, or set calibration: domain.",
            key="priming.calibration",
        )
    return unlabeled


def _random_texts(train_set: Sequence[Example], fields: Sequence[str], seed: int) -> list[Example]:
    """Returns texts of random words of the labeled texts, as long as these are on average."""
    rng = python_rng(seed, "domain texts")
    words = {name: [word for item in train_set for word in item.fields[name].split()] for name in fields}
    length = {name: max(1, round(len(words[name]) / max(len(train_set), 1))) for name in fields}
    return [
        Example(f"domain-{number}", {name: " ".join(rng.choices(words[name], k=length[name])) for name in fields})
        for number in range(NUM_DOMAIN_TEXTS)
    ]
