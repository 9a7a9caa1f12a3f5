"""What a student that teaches others writes: how it labels the unlabeled texts, and random spans of them.

A few thousand texts are few for a small encoder. Its teacher reads any text, so it labels parts of the texts as well,
and the student learns which parts decide. This is the n-gram sampling of Tang et al., "Distilling Task-Specific
Knowledge from BERT into Simple Neural Networks" (2019, https://arxiv.org/abs/1903.12136), with longer parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.common.data.step_outputs import write_logits
from stages.common.examples import Example, load_examples, write_examples
from stages.common.protocols import LogitModel, Recorder
from stages.common.seeds import python_rng
from stages.common.training.evaluation import UNLABELED_FILE
from stages.distillation.config import SelectionConfig

SPANS_FILE, SPAN_LOGITS_FILE = "spans.jsonl", "span_logits.jsonl"
SHARE = (0.3, 0.7)
"""Bounds of the share of a text that a span has."""
MIN_WORDS = 3
"""Words of a span. A text with fewer words has no spans."""


def label_for_students(
    classifier: LogitModel, config: SelectionConfig, data: Path, out: Path, recorder: Recorder
) -> None:
    """Writes the logits of the unlabeled set and, with `spans_per_text`, random spans and their logits to `out`.

    Call it before the classifier has a bias per label: its own students get one, too.

    Args:
        classifier: The trained student.
        config: Labels, number of spans, seed.
        data: Files of the split stage.
        out: Folder of the step.
        recorder: Gets the progress.
    """
    texts = load_examples(data / "unlabeled.jsonl")
    write_logits(out / UNLABELED_FILE, texts, classifier.predict(texts, recorder, "unlabeled examples"), config.labels)
    if config.spans_per_text:
        spans = list(sample_spans(texts, config.spans_per_text, config.seed))
        write_examples(out / SPANS_FILE, spans)
        write_logits(out / SPAN_LOGITS_FILE, spans, classifier.predict(spans, recorder, "spans"), config.labels)


def sample_spans(examples: Sequence[Example], per_text: int, seed: int) -> Iterator[Example]:
    """Yields random spans of texts. The uid of a span is that of its text, a slash, and a number.

    Args:
        examples: Examples with one field. Words are separated by spaces; without any space, each character is one.
        per_text: Number of spans of each text.
        seed: Seed of lengths and positions.
    """
    rng = python_rng(seed, "spans")
    for item in examples:
        [(field, text)] = item.fields.items()
        words, space = text.split(), " "
        if len(words) == 1:
            words, space = list(words[0]), ""
        if len(words) < MIN_WORDS:
            continue
        for number in range(per_text):
            length = max(MIN_WORDS, round(rng.uniform(*SHARE) * len(words)))
            start = rng.randint(0, len(words) - length)
            yield Example(f"{item.uid}/{number}", {field: space.join(words[start : start + length])})
