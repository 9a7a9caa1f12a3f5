"""Tests of contrastive tuning: the pairs, and the tuned encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.common.examples import Example, load_examples
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.training.config import TrainingConfig
from stages.probe import stage as probe
from stages.probe.config import ContrastiveConfig, ProbeConfig
from stages.probe.stage import Pair, make_pairs
from tests.support.small_models import film_examples
from tests.support.stage_runs import LABELS, SILENT, logits_of, run, written

SHORT = ContrastiveConfig(training=TrainingConfig(learning_rate=2e-3, batch_size=8, steps=30), seed=3)


def count_kinds(pairs: list[Pair]) -> tuple[int, int]:
    """Returns the number of pairs with the same label, and with different labels."""
    num_same = sum(pair.is_same for pair in pairs)
    return num_same, len(pairs) - num_same


def test_make_pairs_repeats_the_rarer_kind() -> None:
    """Six examples, three per label: 2 * 3 pairs with the same label, 3 * 3 with different labels."""
    pairs = make_pairs(film_examples(6), None, seed=0)
    assert count_kinds(pairs) == (9, 9)
    distinct = {frozenset((pair.first.uid, pair.second.uid)) for pair in pairs}
    assert len(distinct) == 15
    assert all(pair.is_same == (pair.first.label == pair.second.label) for pair in pairs)


def test_make_pairs_limits_the_number() -> None:
    pairs = make_pairs(film_examples(6), 8, seed=0)
    assert count_kinds(pairs) == (4, 4)
    assert pairs == make_pairs(film_examples(6), 8, seed=0) != make_pairs(film_examples(6), 8, seed=1)


def test_make_pairs_accepts_one_example_per_label() -> None:
    examples = [Example("1", {}, "a"), Example("2", {}, "b"), Example("3", {}, "c")]
    assert count_kinds(make_pairs(examples, None, 0)) == (0, 3)


def config_of(folder: Path, contrastive: ContrastiveConfig | None) -> ProbeConfig:
    encoder = EncoderConfig(asset=str(folder), max_length=32, precision="fp32")
    return ProbeConfig(labels=LABELS, fields=("text",), encoder=encoder, regularization_c=10.0, contrastive=contrastive)


def separation(encoder: TextEncoder, examples: list[Example]) -> float:
    """Returns the mean cosine of examples with the same label minus that of examples with different labels."""
    vectors = torch.nn.functional.normalize(encoder.embed(examples, SILENT, ""), dim=1)
    cosine = vectors @ vectors.T
    same = torch.tensor([[one.label == other.label for other in examples] for one in examples])
    others = ~torch.eye(len(examples), dtype=torch.bool)
    return float(cosine[same & others].mean() - cosine[~same].mean())


def test_tuning_separates_labels_and_is_saved(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = config_of(backbone_folders["bert"], SHORT)
    before = {path.name: path.read_bytes() for path in backbone_folders["bert"].iterdir()}
    result = run(probe, config, probe.Inputs(data=film_data), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in backbone_folders["bert"].iterdir()} == before
    train, test = (load_examples(film_data / f"{name}.jsonl") for name in ("train", "test"))
    tuned = TextClassifier.load(tmp_path / "out" / "model")
    assert separation(tuned.encoder, train) > separation(TextEncoder.of(config.encoder, ("text",)), train) + 0.3
    assert tuned.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=1e-4)
    assert result.trainable_parameters > 10_000


def test_probe_depends_on_tuning_and_its_seed(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    other = SHORT.model_copy(update={"seed": 4})
    for name, contrastive in (("frozen", None), ("tuned", SHORT), ("again", SHORT), ("other", other)):
        config = config_of(backbone_folders["bert"], contrastive)
        run(probe, config, probe.Inputs(data=film_data), tmp_path / name)
    assert written(tmp_path / "tuned") == written(tmp_path / "again")
    for name in ("frozen", "other"):
        assert abs(logits_of(tmp_path / name) - logits_of(tmp_path / "tuned")).max() > 0.01
