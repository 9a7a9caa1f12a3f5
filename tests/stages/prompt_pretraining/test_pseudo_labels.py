"""Sentences that a model labels: kept where it is sure, balanced, and no more of them labelled than is needed."""

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


class Told:
    """Labels a sentence as it says itself: "high 0.9 ..." is high with probability 0.9."""

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


def told() -> PseudoLabeler:
    return PseudoLabeler(Told(), "text", LABELS)


def config(**settings: Any) -> SingleConfig:
    return SingleConfig(**{"verbalizer": WORDS, "min_confidence": 0.6} | settings)


def sentences(count: int, *kinds: str) -> list[str]:
    """Sentences of the kinds in turn."""
    return [f"{kinds[number % len(kinds)]} number {number}" for number in range(count)]


def test_only_what_is_sure_is_kept_with_its_label() -> None:
    found = sentences(300, "low 0.9", "mid 0.61", "high 0.7", "high 0.59", "low 0.5")
    examples = single_examples(config(), told(), found, 60, python_rng(0), SILENT)
    assert Counter(item.label for item in examples) == dict.fromkeys(LABELS, 20)
    for item in examples:
        label, top = item.fields["text"].split()[:2]
        assert item.label == label
        assert float(top) >= 0.6
    assert len({item.uid for item in examples}) == len({item.fields["text"] for item in examples}) == 60


def test_what_rare_classes_lack_the_others_make_up_for() -> None:
    found = sentences(12, "mid 0.9") + sentences(90, "low 0.9", "high 0.9") + sentences(3, "mid 0.8")
    examples = single_examples(config(), told(), found, 60, python_rng(0), SILENT)
    assert Counter(item.label for item in examples) == {"mid": 15, "low": 22, "high": 23}


@pytest.mark.parametrize(
    ("sizes", "wanted", "shares"),
    [((9, 9, 9), 9, (3, 3, 3)), ((9, 9, 9), 7, (2, 2, 3)), ((1, 9, 9), 9, (1, 4, 4)), ((0, 2, 9), 8, (0, 2, 6))],
)
def test_classes_are_as_equal_as_can_be(sizes: tuple[int, ...], wanted: int, shares: tuple[int, ...]) -> None:
    kept = {label: [f"{label} {n}" for n in range(size)] for label, size in zip(LABELS, sizes, strict=True)}
    counts = Counter(item.label for item in balanced(kept, wanted, python_rng(0)))
    assert tuple(counts[label] for label in LABELS) == shares


def test_no_more_is_labelled_than_is_needed() -> None:
    many = (f"{LABELS[number % 3]} 0.9 number {number}" for number in range(10**9))
    labeller = told()
    found = label_until_enough(config(), labeller, many, 300, SILENT)
    assert len(labeller.model.seen) == found.num_seen == 512, "two batches, then each class has its 100"


def test_candidates_are_a_limit() -> None:
    many = (f"{'low' if number % 50 else 'mid'} 0.9 number {number}" for number in range(10**9))
    found = label_until_enough(config(candidates_per_example=4), told(), many, 300, SILENT)
    assert found.num_seen == 1200
    assert [len(found.kept[label]) for label in LABELS] == [1176, 24, 0]


def test_the_order_follows_from_the_seed() -> None:
    found = sentences(90, "low 0.9", "mid 0.9", "high 0.9")
    first, again, other = (single_examples(config(), told(), found, 30, python_rng(n), SILENT) for n in (3, 3, 4))
    assert first == again != other
    assert [item.label for item in first] != sorted(item.label for item in first)


def test_people_see_what_was_labelled() -> None:
    kept = Kept()
    found = sentences(60, "low 0.9", "high 0.95", "high 0.4")
    single_examples(config(candidates_per_example=2), told(), found, 30, python_rng(0), kept)
    assert kept.tables["pseudo_labels"] == [
        {"label": "low", "labelled": 20, "sure": 20},
        {"label": "mid", "labelled": 0, "sure": 0},
        {"label": "high", "labelled": 40, "sure": 20},
    ]
    assert kept.metrics["pseudo_labels/highest_confidence"] == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("kinds", "problem"),
    [
        (("low 0.5", "high 0.59"), "of 90 sentences none is labelled surely enough, and 30 are needed; the highest "
         "confidence is 0.590, and min_confidence is 0.6."),
        (("low 0.5", "high 0.7", "mid 0.4", "high 0.4"), "only 23 are labelled surely enough, and 30 are needed; the "
         "highest confidence is 0.700"),
        (("low 0.9",), "all 90 that are sure have the label 'low'"),
    ],
)  # fmt: skip
def test_labels_that_do_not_suffice_are_refused(kinds: tuple[str, ...], problem: str) -> None:
    with pytest.raises(DataError) as caught:
        single_examples(config(), told(), sentences(90, *kinds), 30, python_rng(0), SILENT)
    assert problem in caught.value.problem
    assert "min_confidence" in caught.value.remedy
    assert "classifier" in caught.value.remedy


# --- who labels -----------------------------------------------------------------------------------------------------

TEXTS = [Example(str(n), {"text": text}) for n, text in enumerate(("A warm film.", "A dull plot.", "It was great."))]


def test_the_backbone_labels_by_its_pattern(backbones: dict[str, Backbone]) -> None:
    for pattern in ("Review: {text}\nSentiment:{mask}", "{text} It was {mask}."):
        settings = backbone_config(Path())
        one = SingleConfig(verbalizer=WORDS, pattern=pattern, calibration="none")
        labeller = PseudoLabeler.of(one, backbones["bert"], settings, SILENT)
        cloze = ClozeClassifier.of(one.task, "label", backbones["bert"], settings)
        assert cloze.encoder.pattern.text == pattern
        assert labeller.labels == LABELS
        plain = cloze.predict(TEXTS, SILENT, "")
        assert labeller.model.predict(TEXTS, SILENT, "") == pytest.approx(plain)
        by_pile = PseudoLabeler.of(
            one.model_copy(update={"calibration": "unlabeled"}), backbones["bert"], settings, SILENT
        )
        assert by_pile.model.predict(TEXTS, SILENT, "") == pytest.approx(calibrate(plain, plain))
        later = by_pile.model.predict(TEXTS[:1], SILENT, "")
        assert later == pytest.approx(calibrate(plain, plain)[:1], abs=1e-5), "the first texts stay the reference"
        by_neutral = PseudoLabeler.of(
            one.model_copy(update={"calibration": "contextual"}), backbones["bert"], settings, SILENT
        )
        neutral = [Example("n", {"text": text}) for text in ("N/A", "[MASK]", "...")]
        expected = calibrate(plain, cloze.predict(neutral, SILENT, ""))
        assert by_neutral.model.predict(TEXTS, SILENT, "") == pytest.approx(expected)


@pytest.fixture
def student(backbone_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A trained student, as far as its files go; it reads the field `body`."""
    settings = StudentConfig(asset=str(backbone_folders["bert"]), max_length=32, precision="fp32")
    (tmp_path / "model").mkdir()
    TextClassifier.from_encoder(settings, ("high", "low", "mid"), ("body",), 0).save(tmp_path / "model")
    return tmp_path / "model"


def test_a_classifier_labels_in_the_backbone_s_place(student: Path, backbones: dict[str, Backbone]) -> None:
    one = config(classifier=str(student), min_confidence=0.0)
    labeller = PseudoLabeler.of(one, backbones["bert"], backbone_config(Path()), SILENT)
    assert (labeller.field, labeller.labels) == ("body", ("high", "low", "mid")), "its own order"
    found = sentences(60, "The plot was warm.", "The script was dull.", "Critics praised the music.")
    kept = label_until_enough(one, labeller, found, 6, SILENT).kept
    loaded = TextClassifier.load(student)
    logits = loaded.predict([Example(text, {"body": text}) for text in found], SILENT, "")
    for text, row in zip(found, softmax(logits), strict=True):
        assert text in kept[loaded.labels[int(row.argmax())]]


def test_a_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="holds no classifier") as caught:
        classifier_folder(config(classifier=str(tmp_path)))
    assert "model" in caught.value.remedy
    with pytest.raises(AssetError, match="does not exist"):
        classifier_folder(config(classifier=str(tmp_path / "nowhere")))


def test_a_classifier_of_other_labels_or_of_pairs_is_refused(student: Path) -> None:
    assert classifier_folder(config(classifier=str(student))) == student
    with pytest.raises(InputError, match=r"labels are \['high', 'low', 'mid'\], and words are given for") as caught:
        classifier_folder(SingleConfig(classifier=str(student)))
    assert caught.value.key == "single.words"
    about = json.loads((student / "classifier.json").read_text())
    (student / "classifier.json").write_text(json.dumps(about | {"fields": ["a", "b"]}))
    with pytest.raises(AssetError, match="reads pairs"):
        classifier_folder(config(classifier=str(student)))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"pattern": "{text} is{mask} {other}"}, "is not one of text alone"),
        ({"pattern": "{text} {soft:3}{mask}"}, "is not one of text alone"),
        ({"pattern": "{text} is good"}, "has no {mask}"),
        ({"verbalizer": {"good": ["good"], "bad": []}}, "'bad' has no word"),
        ({"verbalizer": {"good": ["good"]}}, "at least 2"),
        ({"min_confidence": 1.0}, "less than 1"),
    ],
)
def test_what_cannot_label_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises((ValidationError, PatternError)) as caught:
        config(**settings)
    assert problem in str(caught.value)
