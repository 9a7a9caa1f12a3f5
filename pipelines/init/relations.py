"""Do the labels of two texts say how they relate, as in entailment and paraphrase, or what they are about, as those of
a title and a body?

Words predict what texts are about, but say little about how two texts relate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.init.budget import MAX_FOLDS
from pipelines.init.significance import is_above_guess
from stages.common.config import SINGLE_LABEL
from stages.common.data.groups import group_numbers
from stages.common.examples import Example, label_indices
from stages.common.models.config import Analyzer
from stages.common.models.tfidf_classifier import TfidfClassifier
from stages.common.patterns.config import Task
from stages.common.protocols import NullRecorder
from stages.common.seeds import python_rng
from stages.common.training.cross_validation import Indices, held_out_logits

MAX_EXAMPLES = 500


def labels_relate_texts(task: Task, examples: Sequence[Example], analyzer: Analyzer) -> bool:
    """Returns True if examples have two texts whose words do not predict the label, cross-validated by TF-IDF.

    Args:
        task: Fields and labels.
        examples: Labeled examples; at most `MAX_EXAMPLES` are used.
        analyzer: Units of TF-IDF.
    """
    if len(task.fields) < 2 or task.problem_type != SINGLE_LABEL:
        return False
    sample = list(examples)
    python_rng(0, "relations").shuffle(sample)
    sample = sample[:MAX_EXAMPLES]
    gold = np.array(label_indices(sample, task.labels), dtype=np.int64)

    def fit_and_predict(fold: int, fitted: Indices, held_out: Indices) -> NDArray[np.float64]:
        del fold
        classifier = TfidfClassifier(task.labels, task.fields, analyzer).fit([sample[row] for row in fitted])
        return classifier.predict([sample[row] for row in held_out], NullRecorder(), "")

    groups = group_numbers(sample, task.fields)
    logits = held_out_logits(gold.tolist(), len(task.labels), MAX_FOLDS, fit_and_predict, groups=groups)
    return logits is None or not is_above_guess(int((logits.argmax(axis=1) == gold).sum()), gold)
