"""Contrastive tuning: which pairs are made, and what they do to an encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.common.data.split_files import load_examples
from stages.common.examples import Example
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.training.config import TrainingConfig
from stages.probe import stage as probe
from stages.probe.config import ContrastiveConfig, ProbeConfig
from stages.probe.contrastive import Pair, pairs
from tests.support.small_models import film_examples
from tests.support.stage_runs import LABELS, SILENT, logits_of, run, written

SHORT = ContrastiveConfig(training=TrainingConfig(learning_rate=2e-3, batch_size=8, steps=30), seed=3)


def kinds(found: list[Pair]) -> tuple[int, int]:
    """Pairs of the same label, and of different ones."""
    same = sum(pair.is_same for pair in found)
    return same, len(found) - same


def test_all_pairs_are_made_and_the_rarer_kind_is_repeated() -> None:
    """Six texts, three a label: 2 * 3 pairs of the same label, 3 * 3 of different ones."""
    examples = film_examples(6)
    found = pairs(examples, None, seed=0)
    assert kinds(found) == (9, 9)
    distinct = {frozenset((pair.first.uid, pair.second.uid)) for pair in found}
    assert len(distinct) == 15
    assert all(pair.is_same == (pair.first.label == pair.second.label) for pair in found)


def test_the_number_of_pairs_may_be_limited() -> None:
    found = pairs(film_examples(6), 8, seed=0)
    assert kinds(found) == (4, 4)
    assert found == pairs(film_examples(6), 8, seed=0) != pairs(film_examples(6), 8, seed=1)


def test_one_text_a_label_makes_pairs_of_one_kind() -> None:
    assert kinds(pairs([Example("1", {}, "a"), Example("2", {}, "b"), Example("3", {}, "c")], None, 0)) == (0, 3)


def config_of(folder: Path, contrast: ContrastiveConfig | None) -> ProbeConfig:
    encoder = EncoderConfig(asset=str(folder), max_length=32, precision="fp32")
    return ProbeConfig(labels=LABELS, fields=("text",), encoder=encoder, regularization_c=10.0, contrastive=contrast)


def gap(encoder: TextEncoder, examples: list[Example]) -> float:
    """Mean cosine of texts of the same label, less that of different labels."""
    vectors = torch.nn.functional.normalize(encoder.embed(examples, SILENT, ""), dim=1)
    cosine = vectors @ vectors.T
    same = torch.tensor([[one.label == other.label for other in examples] for one in examples])
    others = ~torch.eye(len(examples), dtype=torch.bool)
    return float(cosine[same & others].mean() - cosine[~same].mean())


def test_labels_move_apart_and_the_tuned_encoder_is_kept(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = config_of(backbone_folders["bert"], SHORT)
    before = {path.name: path.read_bytes() for path in backbone_folders["bert"].iterdir()}
    result = run(probe, config, probe.Inputs(data=film_data), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in backbone_folders["bert"].iterdir()} == before
    train, test = (load_examples(film_data / f"{name}.jsonl") for name in ("train", "test"))
    tuned = TextClassifier.load(tmp_path / "out" / "model")
    assert gap(tuned.encoder, train) > gap(TextEncoder.of(config.encoder, ("text",)), train) + 0.3
    assert tuned.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=1e-4)
    assert result.trainable_parameters > 10_000


def test_contrast_and_its_seed_decide_what_a_probe_says(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    other = SHORT.model_copy(update={"seed": 4})
    for name, contrast in (("frozen", None), ("tuned", SHORT), ("again", SHORT), ("other", other)):
        config = config_of(backbone_folders["bert"], contrast)
        run(probe, config, probe.Inputs(data=film_data), tmp_path / name)
    assert written(tmp_path / "tuned") == written(tmp_path / "again")
    for name in ("frozen", "other"):
        assert abs(logits_of(tmp_path / name) - logits_of(tmp_path / "tuned")).max() > 0.01
