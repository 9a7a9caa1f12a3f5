"""Tests every architecture of transformers that has a language-model head: each cell of docs/reference/models.md.

Every cell is refused with the reason that the page gives, or equals the public forward pass of transformers on one text
at a time, without padding, caches or parts of the head. Architectures are found in the auto classes, so a new one is a
missing row.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from stages.common.models.architectures import Architecture, architectures, examined_rows, rows_of_page
from stages.common.models.backbones.config import BackboneConfig, LoraConfig, TuneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.twins import build_twin
from stages.common.patterns.config import Task
from stages.common.patterns.encoding import mask_token_id
from stages.common.prompts.config import InitConfig, PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.loader import ModelLoader, new_submodel
from stages.common.prompts.peft_format import load_prompt, save_prompt
from stages.common.protocols import NullRecorder
from tests.support.paths import ROOT
from tests.support.small_models import TOKENIZERS, film_examples, film_task

# transformers and PEFT warn about settings of some architectures
pytestmark = pytest.mark.filterwarnings("default")
TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
"""A backward pass adds up more rounding errors. Wrong gradients differ by percents."""
STEP = 0.05
"""Learning rate of a step."""
QUICK = {
    "masked": ("bert", "roberta", "albert", "distilbert", "deberta-v2"),
    "causal": ("gpt2", "gemma2", "qwen3"),
    "seq2seq": ("t5",),
}
"""Architectures that `make test` runs, too."""
PAGE = ROOT / "docs" / "reference" / "models.md"
ROWS = rows_of_page(PAGE.read_text(encoding="utf-8"))
WORDS = "the film"
"""Text whose keys and values are a deep prompt."""


@dataclass(frozen=True)
class Case:
    """A small model of an architecture in a folder, and the same model by transformers alone."""

    folder: Path
    task: Task
    config: BackboneConfig
    plain: Any
    largest_logit: float
    """The magnitude to which the rounding errors of float32 are relative."""


def marks(item: Architecture) -> list[Any]:
    return [] if item.model_type in QUICK[item.family] else [pytest.mark.slow]


def parameters(items: Sequence[Architecture]) -> list[Any]:
    return [pytest.param(item, id=f"{item.family}-{item.model_type}", marks=marks(item)) for item in items]


def test_page_has_a_row_for_every_architecture() -> None:
    assert set(ROWS) == {(item.family, item.model_type) for item in architectures()}


def test_page_has_at_least_60_architectures_without_a_refusal() -> None:
    assert len(ROWS) > 80
    assert sum(not row.refused for row in ROWS.values()) >= 60


@pytest.mark.parametrize("item", parameters(architectures()))
def test_architecture_is_right_or_refused(item: Architecture, tmp_path: Path) -> None:
    row = examined_rows([item])[item.family, item.model_type]
    assert row.refused.keys() == ROWS[item.family, item.model_type].refused.keys(), "run make reference"
    if "score" in row.refused:
        return
    case = make_case(item, tmp_path)
    check_scores(case)
    if "lora" not in row.refused:
        check_lora_step(case, tmp_path / "lora")
    if "prompt" not in row.refused:
        check_prompt_step(case, tmp_path / "prompt")
    if "deep" not in row.refused:
        check_deep_prompt(case, tmp_path / "deep")


def make_case(item: Architecture, folder: Path) -> Case:
    """Saves a model with other weights and another vocabulary than those of the examination."""
    assert item.model_class is not None
    config = item.config()
    pads_with_zero = config.to_dict().get("pad_token_id") == 0
    names = {"masked": "bert" if pads_with_zero else "roberta", "causal": "llama", "seq2seq": "t5"}
    tokenizer = TOKENIZERS[names[item.family]]()
    settings = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if item.family == "seq2seq":
        settings["decoder_start_token_id"] = tokenizer.pad_token_id
    size = len(tokenizer) + 8  # some tokenizers add tokens when they are loaded
    twin = build_twin(item.model_class, config, item.family, seed=5, vocabulary=size, settings=settings)
    if item.family == "seq2seq":
        twin.generation_config.decoder_start_token_id = tokenizer.pad_token_id
    twin.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    asset = BackboneConfig(asset=str(folder / "model"), max_length=48, precision="fp32")
    family_task = film_task("llama" if item.family == "causal" else "bert")
    plain = type(twin).from_pretrained(folder / "model").eval()
    text = torch.arange(5, 25)[None]
    with torch.no_grad():
        decoder = {"decoder_input_ids": text[:, :2]} if item.family == "seq2seq" else {}
        largest = float(plain(input_ids=text, **decoder).logits.abs().max())
    return Case(folder / "model", family_task, asset, plain, largest)


def reference(
    case: Case, classifier: ClozeClassifier, model: Any, *, vectors: Tensor | None = None, layers: Tensor | None = None
) -> Tensor:
    """Returns label scores [n, C] of the examples by the public forward pass on one text at a time."""
    backbone, rows = classifier.backbone, []
    shift = 0 if vectors is None else len(vectors)
    for example in film_examples(5):
        (item,) = classifier.encode(example)
        ids = torch.tensor([item.ids])
        arguments: dict[str, Any] = {"input_ids": ids}
        if vectors is not None:
            embedded = model.get_input_embeddings()(arguments.pop("input_ids"))
            arguments["inputs_embeds"] = torch.cat([vectors[None], embedded], dim=1)
        if layers is None and "use_cache" in inspect.signature(model.forward).parameters:
            arguments["use_cache"] = False  # RWKV has no gradients with a cache
        position = shift + item.mask_position
        if backbone.family == "seq2seq":
            mask = mask_token_id(backbone.tokenizer, "seq2seq")
            arguments["decoder_input_ids"] = torch.tensor([[backbone.tokenizer.pad_token_id, mask]])
            position = 1
        if layers is not None:
            pairs = [(layer[0][None], layer[1][None]) for layer in layers]
            cache = DynamicCache(pairs)
            arguments["past_key_values"] = (
                EncoderDecoderCache(cache, DynamicCache()) if backbone.family == "seq2seq" else cache
            )
        rows.append(label_means(classifier, model(**arguments).logits[0, position]))
    return torch.stack(rows)


def label_means(classifier: ClozeClassifier, logits_V: Tensor) -> Tensor:
    return torch.stack([logits_V[[word[0] for word in words]].mean() for words in classifier.verbalizer.words])


def assert_equal(case: Case, actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    difference, scale = (float(tensor.detach().abs().max()) for tensor in (actual - expected, expected))
    assert difference < tolerance * max(1.0, case.largest_logit, scale), f"{difference:.1e} at a scale of {scale:.1e}"


def predict(classifier: Any) -> Tensor:
    return torch.from_numpy(classifier.predict(film_examples(5), NullRecorder(), "")).float()


def check_scores(case: Case) -> None:
    classifier = ClozeClassifier.of(case.task, "review", load_backbone(case.config, frozen=True), case.config)
    assert classifier.verbalizer.longest == 1
    with torch.no_grad():
        expected = reference(case, classifier, case.plain)
        assert expected.std() > 1e-3
        batch = classifier.logits([classifier.encode(example) for example in film_examples(5)])
    assert_equal(case, batch, expected)
    assert_equal(case, predict(classifier), expected)


def check_lora_step(case: Case, out: Path) -> None:
    """One step of gradient descent on LoRA weights equals that on the same weights in the plain model."""
    out.mkdir()
    with new_submodel(case.config, TuneConfig(tune="lora", lora=LoraConfig(rank=2)), seed=1) as submodel:
        classifier = ClozeClassifier.of(case.task, "review", submodel.backbone, case.config)
        plain = copy.deepcopy(case.plain)
        adapter = get_peft_model(plain, submodel.adapter.peft_config["default"])
        for name, weight in submodel.adapter.named_parameters():
            if "lora_B" in name:
                torch.manual_seed(len(name))
                weight.data = torch.randn_like(weight) * 0.02
        set_peft_model_state_dict(adapter, get_peft_model_state_dict(submodel.adapter))
        loss = classifier.loss(classifier.items(film_examples(5)))
        gold = torch.tensor([item.label for item in classifier.items(film_examples(5))])
        expected_loss = F.cross_entropy(reference(case, classifier, plain), gold)
        assert_equal(case, loss, expected_loss)
        pairs = [
            (ours, theirs)
            for (name, ours), (_, theirs) in zip(
                submodel.adapter.named_parameters(), adapter.named_parameters(), strict=True
            )
            if "lora_" in name
        ]
        ours = torch.autograd.grad(loss, [pair[0] for pair in pairs], allow_unused=True)
        theirs = torch.autograd.grad(expected_loss, [pair[1] for pair in pairs], allow_unused=True)
        assert any(grad is not None and grad.abs().sum() > 0 for grad in ours)
        for (weight, other), grad, plain_grad in zip(pairs, ours, theirs, strict=True):
            assert (grad is None) == (plain_grad is None)
            if grad is not None:
                assert_equal(case, grad, plain_grad, GRADIENT_TOLERANCE)
                weight.data -= STEP * grad
                other.data = weight.data.clone()
        with torch.no_grad():
            expected = reference(case, classifier, plain)
        submodel.save(case.task, "review", out)
        assert_equal(case, predict(classifier), expected)
    assert_equal(case, predict(ModelLoader().load(out)), expected)


def check_prompt_step(case: Case, out: Path) -> None:
    """One step of gradient descent on a prompt of input vectors equals that on the same vectors in the plain model."""
    backbone = load_backbone(case.config, frozen=True)
    prompt = new_prompt(PromptConfig(num_virtual_tokens=3), backbone, case.task.pattern("review"), seed=3)
    classifier = ClozeClassifier.of(case.task, "review", backbone, case.config, prompt)
    vectors = prompt.vectors.clone().requires_grad_()
    loss = classifier.loss(classifier.items(film_examples(5)))
    gold = torch.tensor([item.label for item in classifier.items(film_examples(5))])
    expected_loss = F.cross_entropy(reference(case, classifier, case.plain, vectors=vectors), gold)
    assert_equal(case, loss, expected_loss)
    (grad,) = torch.autograd.grad(loss, [prompt.table.vectors])
    (expected_grad,) = torch.autograd.grad(expected_loss, [vectors])
    # A narrow window of local attention may not reach the prompt.
    assert bool(grad.abs().sum() > 0) == bool(expected_grad.abs().sum() > 0)
    assert_equal(case, grad, expected_grad, GRADIENT_TOLERANCE)
    prompt.table.vectors.data -= STEP * grad
    with torch.no_grad():
        expected = reference(case, classifier, case.plain, vectors=prompt.vectors)
    save_prompt(prompt, backbone, out)
    loaded = ClozeClassifier.of(case.task, "review", backbone, case.config, load_prompt(out, backbone))
    assert_equal(case, predict(loaded), expected)


def check_deep_prompt(case: Case, out: Path) -> None:
    """A deep prompt with the keys and values of some words acts like these words before the text."""
    backbone = load_backbone(case.config, frozen=True)
    method = PromptConfig(method="p_tuning_v2", num_virtual_tokens=4, init=InitConfig(kind="text", text=WORDS))
    prompt = new_prompt(method, backbone, case.task.pattern("review"), seed=3)
    classifier = ClozeClassifier.of(case.task, "review", backbone, case.config, prompt)
    layers = prompt([]).layers
    assert layers is not None
    with torch.no_grad():
        if backbone.family == "masked":
            expected = masked_after_words(classifier, case.plain)
        else:
            expected = reference(case, classifier, case.plain, layers=layers.detach())
    assert_equal(case, predict(classifier), expected)
    items = classifier.items(film_examples(5))
    (grad,) = torch.autograd.grad(classifier.loss(items), [prompt.table.vectors])
    if backbone.family == "masked":
        assert grad.abs().sum() > 0
    else:
        logits = reference(case, classifier, case.plain, layers=prompt([]).layers)
        plain_loss = F.cross_entropy(logits, torch.tensor([item.label for item in items]))
        assert_equal(case, grad, *torch.autograd.grad(plain_loss, [prompt.table.vectors]), GRADIENT_TOLERANCE)
    save_prompt(prompt, backbone, out, "p_tuning_v2")
    loaded = ClozeClassifier.of(case.task, "review", backbone, case.config, load_prompt(out, backbone))
    assert_equal(case, predict(loaded), expected)


def masked_after_words(classifier: ClozeClassifier, model: Any) -> Tensor:
    """Returns label scores of texts after the words of the prompt, which do not see the text."""
    tokenizer = classifier.backbone.tokenizer
    ids = tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    words = [ids[number % len(ids)] for number in range(4)]
    rows = []
    for example in film_examples(5):
        (item,) = classifier.encode(example)
        full = torch.tensor([[*words, *item.ids]])
        mask = torch.zeros(1, 1, full.shape[1], full.shape[1])
        mask[:, :, :4, 4:] = torch.finfo(torch.float32).min
        logits_V = model(input_ids=full, attention_mask=mask).logits[0, 4 + item.mask_position]
        rows.append(label_means(classifier, logits_V))
    return torch.stack(rows)
