"""A text encoder: any model of transformers, its last hidden states pooled into one vector per text.

Works with encoders, causal language models and GGUF files; of T5 and similar models only the encoder is used. Letters
in names of tensors: B batch, L length, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForTextEncoding, AutoTokenizer

from stages.common.errors import AssetError
from stages.common.examples import Example
from stages.common.models.batching import (
    PAD_TO_MULTIPLE_OF,
    attention_implementation,
    autocast,
    batches_by_length,
    default_device,
)
from stages.common.models.config import Pooling, eval_batch_tokens
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.model_files import architecture_of, check_pooling, model_folder, refuse_pickled
from stages.common.protocols import Recorder


class TextEncoder:
    """tokens -> model -> [B, D], one vector a text."""

    def __init__(self, model: Any, tokenizer: Any, fields: Sequence[str], max_length: int, pooling: Pooling) -> None:
        self.model = model.to(default_device())
        self.tokenizer = tokenizer
        self.fields = tuple(fields)
        self.max_length = max_length
        self.pooling: Pooling = pooling
        self.has_segments = getattr(model.config, "type_vocab_size", 0) > 1
        special = tokenizer.num_special_tokens_to_add
        self.separator = "\n" if special(pair=True) == special(pair=False) else ""

    @classmethod
    def of(cls, config: EncoderConfig, fields: Sequence[str]) -> TextEncoder:
        """The pretrained encoder.

        Args:
            config: Which one.
            fields: Fields to read; those behind the first make up its pair.

        Raises:
            AssetError: the reference cannot be reached, or holds no model of a usable kind.
            InputError: the pooling is not for this model.
        """
        folder = model_folder(config.asset)
        check_pooling(config.pooling, folder)
        model, tokenizer = _load(folder, config.asset)
        return cls(model, tokenizer, fields, config.max_length, config.pooling)

    @classmethod
    def load(cls, folder: Path, metadata: Mapping[str, Any]) -> TextEncoder:
        """The encoder that `save` wrote to `folder`, with what `metadata` said of it."""
        pooling = metadata.get("pooling", "mean")
        return cls(*_load(folder, str(folder)), metadata["fields"], metadata["max_length"], pooling)

    def save(self, folder: Path) -> None:
        """Writes weights and tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def metadata(self) -> dict[str, Any]:
        """What `load` needs to know besides the files."""
        return {"fields": self.fields, "max_length": self.max_length, "pooling": self.pooling}

    @property
    def width(self) -> int:
        """D."""
        return int(self.model.config.hidden_size)

    def texts(self, example: Example) -> tuple[str, ...]:
        """The one or two texts of an example that are read; all fields behind the first make up the second."""
        first, *others = (example.fields[name] for name in self.fields)
        return (first, self.separator + " ".join(others)) if others else (first,)

    def pooled(self, examples: Sequence[Example], *, bf16: bool = False, pad_to_multiple: bool = False) -> Tensor:
        """[B, D] vectors in float32, with gradients where the caller allows them; `bf16`: compute in bfloat16; `pad_to_multiple`:
        pad to a length that many batches have (see batching.GRID).
        """
        columns = [list(column) for column in zip(*map(self.texts, examples), strict=True)]
        batch = self.tokenizer(
            *columns,
            padding=True,
            truncation=True,
            max_length=self.max_length,
            pad_to_multiple_of=PAD_TO_MULTIPLE_OF
            if pad_to_multiple and self.max_length % PAD_TO_MULTIPLE_OF == 0
            else None,
            return_token_type_ids=self.has_segments,
            return_tensors="pt",
        ).to(self.model.device)
        with autocast(bf16):
            states_BLD = self.model(**batch).last_hidden_state
        return pool(states_BLD.float(), batch["attention_mask"], self.pooling)

    def embed(self, examples: Sequence[Example], recorder: Recorder, phase: str, *, bf16: bool = False) -> Tensor:
        """[n, D] vectors without gradients, in the order of `examples`; batches hold texts of similar length."""

        was_training = self.model.training
        self.model.eval()
        # characters stand for tokens here: only the order of lengths matters
        lengths = [1 + sum(len(text) for text in self.texts(item)) // 4 for item in examples]
        lengths = [min(length, self.max_length) for length in lengths]
        result = torch.zeros(len(examples), self.width)
        done = 0
        with torch.inference_mode():
            for rows in batches_by_length(lengths, eval_batch_tokens(on_gpu=self.model.device.type != "cpu")):
                result[rows] = self.pooled([examples[row] for row in rows], bf16=bf16, pad_to_multiple=True).cpu()
                done += len(rows)
                recorder.log_progress(done, len(examples), phase=phase)
        self.model.train(was_training)
        return result


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector a text.

    Args:
        states: [B, L, D], padded on the right.
        mask: [B, L], 1 for tokens and 0 for padding.
        pooling: Which.

    Returns:
        [B, D].
    """

    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(mask), device=mask.device), mask.sum(dim=1) - 1]
    weight_BL1 = mask[:, :, None].to(states.dtype)
    return (states * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1)


def _load(folder: Path, name: str) -> tuple[Any, Any]:
    """Body and tokenizer out of a folder; texts are padded on the right, where positions need no care."""

    name = name.partition("#")[0]
    if not (folder / "config.json").exists():
        raise AssetError(f"{name} holds no config.json.", "Name the folder of a transformers encoder.")
    refuse_pickled(folder)
    architecture = architecture_of(folder)
    of_two_halves = architecture.endswith(("ForConditionalGeneration", "EncoderModel"))
    kind = AutoModelForTextEncoding if of_two_halves else AutoModel
    try:
        model = kind.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention_implementation(), use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (KeyError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise AssetError(f"{name} cannot be loaded ({reason}).", "Name an encoder or a language model.") from error
    if not hasattr(model.config, "hidden_size"):
        raise AssetError(f"{name} ({architecture}) has no single hidden size.", "Name a model of text.")
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # nothing is generated
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    return model, tokenizer
