"""Tests of contrastive tuning: the batches, the loss, and the tuned encoder."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from stages.common.engine import InProcessEngine
from stages.common.examples import Example, load_examples, write_examples
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.problems import problem_of
from stages.common.training.config import TrainingConfig
from stages.probe import stage as probe
from stages.probe.config import ContrastiveConfig, ProbeConfig
from stages.probe.contrastive import balanced_batch, pair_loss, tune_encoder, tuned_parameters, unambiguous
from tests.support.stage_runs import LABELS, SILENT, logits_of, run, written

SHORT = ContrastiveConfig(training=TrainingConfig(learning_rate=2e-3, batch_size=8, steps=30), seed=3)


def test_balanced_batch_has_equally_many_examples_of_each_label() -> None:
    examples = [Example(str(number), {}, "abc"[number % 3]) for number in range(30)]
    batch = balanced_batch(examples, 12, seed=0, step=0)
    assert len(set(batch)) == 12
    assert Counter(examples[row].label for row in batch) == {"a": 4, "b": 4, "c": 4}
    assert batch == balanced_batch(examples, 12, seed=0, step=0) != balanced_batch(examples, 12, seed=0, step=1)


def test_texts_with_several_labels_do_not_tune() -> None:
    texts = [("x", "a"), ("y", "a"), (" X", "b"), ("z", "b"), ("z", "b")]
    examples = [Example(str(number), {"text": text}, label) for number, (text, label) in enumerate(texts)]
    assert [item.uid for item in unambiguous(examples)] == ["1", "3", "4"]


def test_balanced_batch_samples_labels_if_there_are_many() -> None:
    examples = [Example(str(number), {}, str(number % 20)) for number in range(100)]
    labels = Counter(examples[row].label for row in balanced_batch(examples, 16, seed=0, step=0))
    assert len(labels) == 8
    assert set(labels.values()) == {2}


def test_balanced_batch_takes_all_of_a_label_with_few_examples() -> None:
    examples = [Example("rare", {}, "b"), *(Example(str(number), {}, "a") for number in range(9))]
    labels = Counter(examples[row].label for row in balanced_batch(examples, 8, seed=0, step=0))
    assert labels == {"a": 4, "b": 1}


def test_pair_loss_weights_both_kinds_of_pairs_equally() -> None:
    """Three pairs with the same label, three with different ones; the norm of the vectors has no influence."""
    vectors = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 3.0]])
    is_related = same_label([0, 0, 0, 1])
    half = math.sqrt(0.5)
    same = ((0 - 1) ** 2 + 2 * (half - 1) ** 2) / 3
    different = (0**2 + 1**2 + half**2) / 3
    assert float(pair_loss(vectors, is_related.double(), is_related)) == pytest.approx((same + different) / 2)


@pytest.mark.parametrize(("labels", "expected"), [([0, 0], 1.0), ([0, 1], 0.0), ([0], 0.0)])
def test_pair_loss_of_one_kind_of_pairs(labels: list[int], expected: float) -> None:
    is_related = same_label(labels)
    assert float(pair_loss(torch.eye(2)[: len(labels)], is_related.double(), is_related)) == expected


def same_label(labels: list[int]) -> torch.Tensor:
    """Returns whether both texts of a pair have the same label."""
    return torch.tensor(labels)[:, None] == torch.tensor(labels)[None, :]


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


def test_mean_of_the_folds_is_the_encoder(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    """Four examples per label: each of two folds leaves out two examples of each label."""
    settings = {"num_folds": 2, "contrastive": SHORT.model_copy(update={"average_folds": True})}
    config = config_of(backbone_folders["bert"], SHORT).model_copy(update=settings)
    run(probe, config, probe.Inputs(data=film_data), tmp_path / "out")
    train = load_examples(film_data / "train.jsonl")
    folds = []
    for held_out in ((0, 1, 4, 5), (2, 3, 6, 7)):
        encoder = TextEncoder.of(config.encoder, config.fields)
        fitted = [item for row, item in enumerate(train) if row not in held_out]
        tune_encoder(
            encoder, fitted, SHORT, problem_of(LABELS, config.problem_type),
            bf16=False, recorder=SILENT, engine=InProcessEngine(),
        )  # fmt: skip
        folds.append(encoder.model.state_dict())
    averaged = tuned_parameters(TextClassifier.load(tmp_path / "out" / "model").encoder)
    for name, values in averaged.items():
        assert values.detach() == pytest.approx((folds[0][name] + folds[1][name]) / 2, abs=1e-6), name
    held_out_logits = logits_of(tmp_path / "out", "held_out_logits")
    run(probe, config.model_copy(update={"contrastive": SHORT}), probe.Inputs(data=film_data), tmp_path / "once_more")
    assert logits_of(tmp_path / "once_more", "held_out_logits") == pytest.approx(held_out_logits, abs=1e-6)


def test_label_that_nothing_is_held_out_of_tunes_on_all_examples(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "one_of_each_label"
    shutil.copytree(film_data, data)
    train = load_examples(data / "train.jsonl")[:2]
    assert len({item.label for item in train}) == 2
    write_examples(data / "train.jsonl", train)
    for averages in (False, True):
        config = config_of(backbone_folders["bert"], SHORT.model_copy(update={"average_folds": averages}))
        run(probe, config, probe.Inputs(data=data), tmp_path / str(averages))
    assert written(tmp_path / "True") == written(tmp_path / "False")


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
