"""The stage that distills into TF-IDF: fits logistic regression on n-grams to the soft labels of the ensemble.

This student needs no pretrained model, no GPU and a few megabytes. It knows only words that occur in its training
texts, so it needs more unlabeled examples than an encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.common.data.step_outputs import write_logits
from stages.common.examples import load_examples
from stages.common.metrics.classification import EvaluationResult
from stages.common.models.tfidf_classifier import TfidfClassifier
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import UNLABELED_FILE, evaluate_with_errors
from stages.distillation.examples import Inputs, fit_targets, teacher_facts, training_examples
from stages.distillation.tfidf.config import TfidfDistillationConfig

__all__ = ["Inputs", "Result", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores of the student. `num_unlabeled` counts the soft-labeled examples that were kept.

    Files: the classifier in `model/` (stages/common/models/tfidf_classifier.py), `test_logits.jsonl` and, with
    label_unlabeled, `unlabeled_logits.jsonl`.
    """

    num_parameters: int
    """Parameters of the classifier."""


def run(config: TfidfDistillationConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Fits the student to soft labels and labeled examples, evaluates it, and writes it to `out`.

    Raises:
        InputError: no soft-labeled example is left, the texts have no words, or gold_weight is set and there are no
            labeled examples.
        DataError: the soft labels belong to other examples.
    """
    del engine
    examples = training_examples(config, inputs)
    num_soft = sum(item.is_soft_labeled for item in examples)
    recorder.log_metric("distill/num_kept", num_soft)
    student = TfidfClassifier.of(config, config)
    targets = fit_targets(examples, config)
    student.fit([item.example for item in examples], targets.probabilities, targets.weights)
    if config.label_unlabeled:  # before it has a bias: its own students get one, too
        unlabeled_set = load_examples(inputs.data / "unlabeled.jsonl")
        logits = student.predict(unlabeled_set, recorder, "unlabeled examples")
        write_logits(out / UNLABELED_FILE, unlabeled_set, logits, config.labels)
    num_labeled, label_bias = teacher_facts(inputs.soft_labels)
    student.add_bias(label_bias)
    test = evaluate_with_errors(student, student.problem, inputs.data, out, recorder)
    (out / "model").mkdir()
    student.save(out / "model")
    return Result(
        test=test,
        num_labeled=num_labeled,
        num_unlabeled=num_soft,
        trainable_parameters=student.num_parameters,
        num_parameters=student.num_parameters,
    )
