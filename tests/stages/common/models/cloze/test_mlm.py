"""Tests of the auxiliary loss: which tokens are masked, and the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze import mlm
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.models.cloze.config import MlmConfig
from stages.common.models.cloze.mlm import IGNORED, MlmLoss, mask_texts, mask_tokens, mlm_loss
from stages.common.models.cloze.objective import Objective
from stages.common.patterns.config import Task
from tests.support.small_models import backbone_config, film_examples, film_task

MASK_ID, VOCABULARY = 4, 1000


def masked(ids: Tensor, may_change: Tensor, share: float = 0.15, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return mask_tokens(ids, may_change, MASK_ID, VOCABULARY, share)


def test_mask_tokens_hides_replaces_and_keeps_tokens() -> None:
    ids = torch.full((400, 100), 7)
    inputs, targets = masked(ids, torch.ones_like(ids, dtype=torch.bool))
    chosen = targets != IGNORED
    assert chosen.double().mean().item() == pytest.approx(0.15, abs=0.01)
    assert (targets[chosen] == 7).all()
    assert (inputs[~chosen] == 7).all()
    actual = inputs[chosen]
    assert (actual == MASK_ID).double().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (actual == 7).double().mean().item() == pytest.approx(0.1, abs=0.02)
    others = actual[(actual != MASK_ID) & (actual != 7)]
    assert others.min() >= 0
    assert others.max() < VOCABULARY
    assert len(others.unique()) > 300, "random tokens come from the whole vocabulary"


def test_mask_tokens_never_chooses_protected_tokens() -> None:
    ids = torch.arange(60).expand(200, 60)
    may_change = (ids % 3 == 0) & (ids > 30)
    inputs, targets = masked(ids, may_change, share=0.9)
    assert torch.equal(inputs[~may_change], ids[~may_change])
    assert (targets[~may_change] == IGNORED).all()
    assert (targets[may_change] != IGNORED).double().mean().item() == pytest.approx(0.9, abs=0.03)


def test_mask_tokens_chooses_at_least_one_token_per_text() -> None:
    ids = torch.full((50, 8), 7)
    may_change = torch.zeros_like(ids, dtype=torch.bool)
    may_change[:40, 3:5] = True
    _, targets = masked(ids, may_change, share=1e-6)
    assert (targets != IGNORED).sum(dim=1).tolist() == [1] * 40 + [0] * 10
    assert set((targets != IGNORED).nonzero()[:, 1].tolist()) == {3, 4}, "randomly, not the first"


def test_mask_tokens_follows_the_seed() -> None:
    ids = torch.full((5, 30), 7)
    first, repeated, other = (masked(ids, torch.ones_like(ids, dtype=torch.bool), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(left, right) for left, right in zip(first, repeated, strict=True))
    assert not torch.equal(first[1], other[1])


SHARE = 0.3


def classifier_of(backbone: Backbone, name: str, task: Task | None = None) -> ClozeClassifier:
    return ClozeClassifier.of(
        task or film_task(name), "review", backbone, backbone_config(Path(backbone.tokenizer.name_or_path))
    )


def auxiliary_loss(classifier: ClozeClassifier, unlabeled: list[Example], probability: float) -> Tensor:
    texts = mask_texts(classifier, unlabeled, probability)
    return mlm_loss(classifier, texts, texts)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_mlm_loss_equals_that_of_the_plain_model(name: str, backbones: dict[str, Backbone]) -> None:
    """Compares with the model's forward pass over all positions, one text at a time and without padding."""
    backbone, unlabeled = backbones[name], film_examples(5)
    classifier = classifier_of(backbone, name)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def spy(ids: Tensor, may_change: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen.append((may_change, *mask_tokens(ids, may_change, *rest)))
        return seen[-1][1:]

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(mlm, "mask_tokens", spy)
        torch.manual_seed(3)
        actual = auxiliary_loss(classifier, unlabeled, SHARE)
    [(_, inputs, targets)] = seen
    losses = []
    for row, item in enumerate(unlabeled):
        [cloze] = classifier.encode(item)
        length = len(cloze.ids)
        positions = torch.arange(length)[None] + (2 if name == "roberta" else 0)
        segments = {"token_type_ids": torch.tensor([cloze.token_type_ids])} if name == "bert" else {}
        with torch.inference_mode():
            logits = backbone.model(input_ids=inputs[row : row + 1, :length], position_ids=positions, **segments).logits
        for position, target in enumerate(targets[row, :length].tolist()):
            if target != IGNORED:
                assert target == cloze.ids[position]
                losses.append(-logits[0, position].log_softmax(dim=0)[target])
    assert len(losses) >= 5
    assert float(actual) == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_mlm_loss_protects_special_tokens_and_the_mask(
    name: str, backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, seen = classifier_of(backbones[name], name), []

    def spy(ids: Tensor, may_change: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen.append((ids, may_change))
        return mask_tokens(ids, may_change, *rest)

    monkeypatch.setattr(mlm, "mask_tokens", spy)
    short, long = Example("short", {"text": "bad."}), film_examples(1)[0]
    with torch.inference_mode():
        auxiliary_loss(classifier, [short, long], SHARE)
    [(ids, may_change)] = seen
    tokenizer = backbones[name].tokenizer
    outside = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id}
    assert tokenizer.pad_token_id in ids[0].tolist()
    assert may_change.tolist() == [[item not in outside for item in row] for row in ids.tolist()]


def test_mlm_loss_applies_the_head_only_at_chosen_positions(
    backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, shapes = backbones["bert"], []
    head = backbone.lm_head

    def counting(hidden: Tensor) -> Tensor:
        shapes.append(tuple(hidden.shape))
        return head(hidden)

    monkeypatch.setattr(backbone, "lm_head", counting)
    with torch.inference_mode():
        auxiliary_loss(classifier_of(backbone, "bert"), film_examples(6), 1e-6)
    assert shapes == [(6, 32)], "one position per text"


def test_mlm_loss_draws_random_tokens_from_the_vocabulary(
    backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(backbone_config(backbone_folders["bert"]), frozen=True)
    backbone.model.resize_token_embeddings(len(backbone.tokenizer) + 50)
    sizes = []

    def spy(ids: Tensor, may_change: Tensor, mask_id: int, vocabulary_size: int, share: float) -> tuple[Tensor, Tensor]:
        sizes.append(vocabulary_size)
        return mask_tokens(ids, may_change, mask_id, vocabulary_size, share)

    monkeypatch.setattr(mlm, "mask_tokens", spy)
    with torch.inference_mode():
        auxiliary_loss(classifier_of(backbone, "bert"), film_examples(2), SHARE)
    assert sizes == [len(backbone.tokenizer)]


def test_mlm_auxiliary_loss_empty_texts_is_zero(backbones: dict[str, Backbone]) -> None:
    bare = film_task("bert").model_copy(update={"patterns": {"review": "{text}{mask}"}})
    with torch.inference_mode():
        actual = auxiliary_loss(classifier_of(backbones["bert"], "bert", bare), [Example("empty", {"text": ""})], SHARE)
    assert float(actual) == 0


def with_mlm(classifier: ClozeClassifier, unlabeled: list[Example], config: MlmConfig) -> Objective:
    return Objective(classifier.loss, [MlmLoss(classifier, unlabeled, config)], 1 - config.weight)


def mixed_loss(compute_loss: Objective, items: list[LabeledCloze]) -> float:
    return float(compute_loss(compute_loss.prepare(items, 0)))


def test_mlm_is_mixed_with_the_label_loss_by_weight(backbones: dict[str, Backbone]) -> None:
    classifier, unlabeled = classifier_of(backbones["bert"], "bert"), film_examples(9, start=50)
    items = classifier.items(film_examples(4))
    auxiliary, mixed = {}, {}
    with torch.inference_mode():
        labels = float(classifier.loss(items))
        for weight in (0.25, 0.75):
            config = MlmConfig(weight=weight, mlm_probability=SHARE, batch_size=3)
            torch.manual_seed(8)
            mixed[weight] = mixed_loss(with_mlm(classifier, unlabeled, config), items)
            auxiliary[weight] = (mixed[weight] - (1 - weight) * labels) / weight
        torch.manual_seed(8)
        rows = torch.randint(len(unlabeled), (3,)).tolist()
        expected = float(auxiliary_loss(classifier, [unlabeled[row] for row in rows], SHARE))
    assert auxiliary[0.25] == pytest.approx(auxiliary[0.75], rel=1e-4)
    assert auxiliary[0.25] == pytest.approx(expected, rel=1e-4)
    assert abs(expected - labels) > 0.1, "the losses must differ for the weights to matter"


def test_mlm_draws_examples_by_the_seed_of_the_step(backbones: dict[str, Backbone]) -> None:
    """The first call after a checkpoint draws what a later call of an uninterrupted run draws."""
    classifier, config = classifier_of(backbones["bert"], "bert"), MlmConfig(weight=0.5, batch_size=2)
    items = classifier.items(film_examples(2))

    def losses(*seeds: int) -> list[float]:
        compute_loss, actual = with_mlm(classifier, film_examples(30, start=50), config), []
        for seed in seeds:
            torch.manual_seed(seed)
            actual.append(mixed_loss(compute_loss, items))
        return actual

    with torch.inference_mode():
        uninterrupted, resumed = losses(1, 2, 3), losses(3)
    assert uninterrupted[2:] == resumed
    assert len(set(uninterrupted)) == 3


def test_gradients_of_mlm_loss_reach_the_model(backbone_folders: dict[str, Path]) -> None:
    backbone = load_backbone(backbone_config(backbone_folders["roberta"]), frozen=False)
    auxiliary_loss(classifier_of(backbone, "roberta"), film_examples(3), SHARE).backward()
    table = backbone.model.get_input_embeddings().weight
    assert table.grad.abs().sum() > 0


def test_mlm_requires_unlabeled_data(backbones: dict[str, Backbone]) -> None:
    with pytest.raises(InputError, match="requires unlabeled data"):
        MlmLoss(classifier_of(backbones["bert"], "bert"), [], MlmConfig())
