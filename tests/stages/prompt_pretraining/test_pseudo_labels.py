"""Tests of pseudo-labels: confident sentences are kept and balanced, and the rest is not labeled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from stages.common.errors import AssetError, DataError, InputError, PatternError
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.averaging import calibrate
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.protocols import Recorder
from stages.common.seeds import python_rng
from stages.prompt_pretraining.classifier_files import classifier_folder
from stages.prompt_pretraining.config import SingleConfig
from stages.prompt_pretraining.pseudo_labels import PseudoLabeler, balanced, label_until_enough, single_examples
from tests.support.small_models import backbone_config
from tests.support.stage_runs import SILENT, Kept

WORDS = {"low": ["bad"], "mid": ["fine"], "high": ["good"]}
LABELS = tuple(WORDS)


class ScriptedModel:
    """Predicts what the sentence says: "high 0.9 ..." is high with probability 0.9."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        del recorder, phase
        rows = []
        for item in examples:
            [text] = item.fields.values()
            self.seen.append(text)
            label, top = text.split()[:2]
            rows.append([float(top) if label == name else (1 - float(top)) / 2 for name in LABELS])
        return np.log(np.array(rows))


def labeler() -> PseudoLabeler:
    return PseudoLabeler(ScriptedModel(), "text", LABELS)


def config(**settings: Any) -> SingleConfig:
    return SingleConfig(**{"verbalizer": WORDS, "min_confidence": 0.6} | settings)


def sentences(count: int, *kinds: str) -> list[str]:
    """Returns sentences that start with the kinds in turn."""
    return [f"{kinds[number % len(kinds)]} number {number}" for number in range(count)]


def test_confident_sentences_are_kept_with_their_label() -> None:
    texts = sentences(300, "low 0.9", "mid 0.61", "high 0.7", "high 0.59", "low 0.5")
    examples = single_examples(config(), labeler(), texts, 60, rng=python_rng(0), recorder=SILENT)
    assert Counter(item.label for item in examples) == dict.fromkeys(LABELS, 20)
    for item in examples:
        label, top = item.fields["text"].split()[:2]
        assert item.label == label
        assert float(top) >= 0.6
    assert len({item.uid for item in examples}) == len({item.fields["text"] for item in examples}) == 60


def test_other_classes_replace_a_rare_class() -> None:
    texts = sentences(12, "mid 0.9") + sentences(90, "low 0.9", "high 0.9") + sentences(3, "mid 0.8")
    examples = single_examples(config(), labeler(), texts, 60, rng=python_rng(0), recorder=SILENT)
    assert Counter(item.label for item in examples) == {"mid": 15, "low": 22, "high": 23}


@pytest.mark.parametrize(
    ("sizes", "num_examples", "expected"),
    [((9, 9, 9), 9, (3, 3, 3)), ((9, 9, 9), 7, (2, 2, 3)), ((1, 9, 9), 9, (1, 4, 4)), ((0, 2, 9), 8, (0, 2, 6))],
)
def test_balanced_classes_are_as_equal_as_possible(
    sizes: tuple[int, ...], num_examples: int, expected: tuple[int, ...]
) -> None:
    kept = {label: [f"{label} {n}" for n in range(size)] for label, size in zip(LABELS, sizes, strict=True)}
    counts = Counter(item.label for item in balanced(kept, num_examples, python_rng(0)))
    assert tuple(counts[label] for label in LABELS) == expected


def test_labeling_stops_if_there_are_enough() -> None:
    many = (f"{LABELS[number % 3]} 0.9 number {number}" for number in range(10**9))
    scripted = labeler()
    labeled = label_until_enough(config(), scripted, many, 300, SILENT)
    assert len(scripted.model.seen) == labeled.num_seen == 512  # two batches: each class has its 100


def test_candidates_per_example_is_a_limit() -> None:
    many = (f"{'low' if number % 50 else 'mid'} 0.9 number {number}" for number in range(10**9))
    labeled = label_until_enough(config(candidates_per_example=4), labeler(), many, 300, SILENT)
    assert labeled.num_seen == 1200
    assert [len(labeled.kept[label]) for label in LABELS] == [1176, 24, 0]


def test_order_depends_on_the_seed() -> None:
    texts = sentences(90, "low 0.9", "mid 0.9", "high 0.9")
    first, again, other = (
        single_examples(config(), labeler(), texts, 30, rng=python_rng(n), recorder=SILENT) for n in (3, 3, 4)
    )
    assert first == again != other
    assert [item.label for item in first] != sorted(item.label for item in first)


def test_labels_are_logged() -> None:
    recorder = Kept()
    texts = sentences(60, "low 0.9", "high 0.95", "high 0.4")
    single_examples(config(candidates_per_example=2), labeler(), texts, 30, rng=python_rng(0), recorder=recorder)
    assert recorder.tables["pseudo_labels"] == [
        {"label": "low", "labeled": 20, "kept": 20},
        {"label": "mid", "labeled": 0, "kept": 0},
        {"label": "high", "labeled": 40, "kept": 20},
    ]
    assert recorder.metrics["pseudo_labels/highest_confidence"] == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("kinds", "problem"),
    [
        (("low 0.5", "high 0.59"), "0 of 90 sentences are labeled with the confidence 0.6 or more, but 30 are needed; "
         "the highest confidence is 0.590."),
        (("low 0.5", "high 0.7", "mid 0.4", "high 0.4"), "23 of 90 sentences are labeled with the confidence 0.6 or "
         "more, but 30 are needed; the highest confidence is 0.700"),
        (("low 0.9",), "all 90 confident sentences of 90 have the same label, 'low'"),
    ],
)  # fmt: skip
def test_too_few_confident_sentences_raise(kinds: tuple[str, ...], problem: str) -> None:
    with pytest.raises(DataError) as caught:
        single_examples(config(), labeler(), sentences(90, *kinds), 30, rng=python_rng(0), recorder=SILENT)
    assert problem in caught.value.problem
    assert "min_confidence" in caught.value.remedy
    assert "classifier" in caught.value.remedy


TEXTS = [Example(str(n), {"text": text}) for n, text in enumerate(("A warm film.", "A dull plot.", "It was great."))]


def test_backbone_labels_with_the_pattern(backbones: dict[str, Backbone]) -> None:
    for pattern in ("Review: {text}\nSentiment:{mask}", "{text} It was {mask}."):
        settings = backbone_config(Path())
        single = SingleConfig(verbalizer=WORDS, pattern=pattern, calibration="none")
        pseudo_labeler = PseudoLabeler.of(single, backbones["bert"], settings, SILENT)
        cloze = ClozeClassifier.of(single.task, "label", backbones["bert"], settings)
        assert cloze.encoder.pattern.text == pattern
        assert pseudo_labeler.labels == LABELS
        logits = cloze.predict(TEXTS, SILENT, "")
        assert pseudo_labeler.model.predict(TEXTS, SILENT, "") == pytest.approx(logits)


def test_backbone_is_calibrated(backbones: dict[str, Backbone]) -> None:
    settings = backbone_config(Path())
    single = SingleConfig(verbalizer=WORDS, calibration="unlabeled")
    cloze = ClozeClassifier.of(single.task, "label", backbones["bert"], settings)
    logits = cloze.predict(TEXTS, SILENT, "")
    model = PseudoLabeler.of(single, backbones["bert"], settings, SILENT).model
    assert model.predict(TEXTS, SILENT, "") == pytest.approx(calibrate(logits, logits))
    later = model.predict(TEXTS[:1], SILENT, "")
    assert later == pytest.approx(calibrate(logits, logits)[:1], abs=1e-5)  # the first texts stay the reference
    contextual = single.model_copy(update={"calibration": "contextual"})
    model = PseudoLabeler.of(contextual, backbones["bert"], settings, SILENT).model
    content_free = [Example("n", {"text": text}) for text in ("N/A", "[MASK]", "...")]
    expected = calibrate(logits, cloze.predict(content_free, SILENT, ""))
    assert model.predict(TEXTS, SILENT, "") == pytest.approx(expected)


@pytest.fixture
def student(backbone_folders: dict[str, Path], tmp_path: Path) -> Path:
    """Files of a student, which reads the field `body`."""
    settings = StudentConfig(asset=str(backbone_folders["bert"]), max_length=32, precision="fp32")
    (tmp_path / "model").mkdir()
    TextClassifier.from_encoder(settings, ("high", "low", "mid"), ("body",), 0).save(tmp_path / "model")
    return tmp_path / "model"


def test_classifier_labels_instead_of_the_backbone(student: Path, backbones: dict[str, Backbone]) -> None:
    single = config(classifier=str(student), min_confidence=0.0)
    pseudo_labeler = PseudoLabeler.of(single, backbones["bert"], backbone_config(Path()), SILENT)
    assert (pseudo_labeler.field, pseudo_labeler.labels) == ("body", ("high", "low", "mid"))
    texts = sentences(60, "The plot was warm.", "The script was dull.", "Critics praised the music.")
    kept = label_until_enough(single, pseudo_labeler, texts, 6, SILENT).kept
    loaded = TextClassifier.load(student)
    logits = loaded.predict([Example(text, {"body": text}) for text in texts], SILENT, "")
    for text, row in zip(texts, softmax(logits), strict=True):
        assert text in kept[loaded.labels[int(row.argmax())]]


def test_folder_without_a_classifier_raises(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="contains no classifier") as caught:
        classifier_folder(config(classifier=str(tmp_path)))
    assert "model" in caught.value.remedy
    with pytest.raises(AssetError, match="does not exist"):
        classifier_folder(config(classifier=str(tmp_path / "nowhere")))


def test_classifier_of_other_labels_or_of_pairs_raises(student: Path) -> None:
    assert classifier_folder(config(classifier=str(student))) == student
    with pytest.raises(InputError, match=r"has the labels \['high', 'low', 'mid'\], but the verbalizer has") as caught:
        classifier_folder(SingleConfig(classifier=str(student)))
    assert caught.value.key == "single.verbalizer"
    payload = json.loads((student / "classifier.json").read_text())
    (student / "classifier.json").write_text(json.dumps(payload | {"fields": ["a", "b"]}))
    with pytest.raises(AssetError, match="reads pairs"):
        classifier_folder(config(classifier=str(student)))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"pattern": "{text} is{mask} {other}"}, "must have the field text, no other field"),
        ({"pattern": "{text} {soft:3}{mask}"}, "must have the field text, no other field"),
        ({"pattern": "{text} is good"}, "has no {mask}"),
        ({"verbalizer": {"good": ["good"], "bad": []}}, "'bad' has no word"),
        ({"verbalizer": {"good": ["good"]}}, "at least 2"),
        ({"min_confidence": 1.0}, "less than 1"),
    ],
)
def test_unusable_single_config_raises(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises((ValidationError, PatternError)) as caught:
        config(**settings)
    assert problem in str(caught.value)
