"""A text encoder: any model of transformers, its last hidden states pooled into one vector per text.

Works with encoders, causal language models and GGUF files; of T5 and similar models only the encoder is used. Letters
in names of tensors: B batch, L length, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForTextEncoding

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
from stages.common.models.encoders.modeling_clozeline import ClozelineForSequenceClassification, pool
from stages.common.models.model_files import (
    MERGE,
    architecture_of,
    check_pooling,
    model_folder,
    refuse_adapter,
    refuse_pickled,
)
from stages.common.models.remote_code import refuse_code
from stages.common.models.tokenizers import load_tokenizer
from stages.common.plain_text import PlainText
from stages.common.protocols import Recorder


class TextEncoder:
    """tokens -> model -> [B, D], one vector per text."""

    def __init__(
        self, model: Any, tokenizer: Any, fields: Sequence[str], max_length: int, pooling: Pooling, prefix: str
    ) -> None:
        self.model = model.to(default_device())
        self.tokenizer = tokenizer
        self._plain = PlainText(tokenizer)
        self.fields = tuple(fields)
        self.max_length = max_length
        self.pooling: Pooling = pooling
        self.prefix = prefix
        self.has_segments = getattr(model.config, "type_vocab_size", 0) > 1
        special = tokenizer.num_special_tokens_to_add
        self.separator = "\n" if special(pair=True) == special(pair=False) else ""

    @classmethod
    def of(cls, config: EncoderConfig, fields: Sequence[str]) -> TextEncoder:
        """Loads a pretrained encoder.

        Args:
            config: The encoder.
            fields: Fields to read: the first is one text, all others together are the second text of a pair.

        Raises:
            AssetError: the reference is unreachable, or is not a usable model.
            InputError: the pooling does not fit the model.
        """
        folder = model_folder(config.asset)
        check_pooling(config.pooling, folder)
        model, tokenizer = _load(folder, config.asset)
        return cls(model, tokenizer, fields, config.max_length, config.pooling, config.prefix)

    @classmethod
    def load(cls, folder: Path, metadata: Mapping[str, Any]) -> TextEncoder:
        """Loads the encoder of a model or a classifier in `folder`; `metadata` is the property of this name."""
        pooling, prefix = metadata.get("pooling", "mean"), metadata.get("prefix", "")
        return cls(*_load(folder, str(folder)), metadata["fields"], metadata["max_length"], pooling, prefix)

    @property
    def metadata(self) -> dict[str, Any]:
        """The settings that `load` needs in addition to the files."""
        return {
            "fields": self.fields,
            "max_length": self.max_length,
            "pooling": self.pooling,
            "prefix": self.prefix,
        }

    @property
    def width(self) -> int:
        """D."""
        return int(self.model.config.hidden_size)

    def texts(self, example: Example) -> tuple[str, ...]:
        """Returns the one or two texts of an example with their prefix; all fields after the first are the second."""
        first, *others = (self._plain(example.fields[name]) for name in self.fields)
        text = self.prefix + first
        return (text, self.separator + self.prefix + " ".join(others)) if others else (text,)

    def num_characters(self, example: Example) -> int:
        """Returns the number of characters of the texts of an example."""
        return sum(len(text) for text in self.texts(example))

    def num_tokens(self, example: Example) -> int:
        """Returns about the number of tokens that are read, estimated from characters: only its order matters."""
        return min(1 + self.num_characters(example) // 4, self.max_length)

    def fraction_cut(self, examples: Sequence[Example]) -> float:
        """Returns the fraction of examples with more than `max_length` tokens; 0 without examples."""
        if not examples:
            return 0.0
        columns = [list(column) for column in zip(*map(self.texts, examples), strict=True)]
        tokens = self.tokenizer(*columns, verbose=False)["input_ids"]  # verbose warns of long texts
        return sum(len(ids) > self.max_length for ids in tokens) / len(examples)

    def pooled(self, examples: Sequence[Example], *, bf16: bool = False, pad_to_multiple: bool = False) -> Tensor:
        """Returns vectors, [B, D] float32, with gradients if the caller enables them.

        Args:
            examples: [B] examples.
            bf16: Compute in bfloat16.
            pad_to_multiple: Pad to a multiple of batching.PAD_TO_MULTIPLE_OF.
        """
        columns = [list(column) for column in zip(*map(self.texts, examples), strict=True)]
        return self._pool(columns, bf16=bf16, pad_to_multiple=pad_to_multiple)

    def _pool(self, columns: Sequence[list[str]], *, bf16: bool, pad_to_multiple: bool) -> Tensor:
        """Returns vectors, [B, D] float32, of B texts, or of B pairs in two columns."""
        can_pad = pad_to_multiple and self.max_length % PAD_TO_MULTIPLE_OF == 0
        batch = self.tokenizer(
            *columns,
            padding=True,
            truncation=True,
            max_length=self.max_length,
            pad_to_multiple_of=PAD_TO_MULTIPLE_OF if can_pad else None,
            return_token_type_ids=self.has_segments,
            return_tensors="pt",
        ).to(self.model.device)
        with autocast(bf16):
            states_BLD = self.model(**batch).last_hidden_state
        return pool(states_BLD.float(), batch["attention_mask"], self.pooling)

    def embed(self, examples: Sequence[Example], recorder: Recorder, phase: str, *, bf16: bool = False) -> Tensor:
        """Returns vectors without gradients, [n, D], in the order of `examples`; batches have similar lengths."""
        was_training = self.model.training
        self.model.eval()
        lengths = [self.num_tokens(item) for item in examples]
        vectors_nD = torch.zeros(len(examples), self.width)
        num_done = 0
        with torch.inference_mode():
            for rows in batches_by_length(lengths, eval_batch_tokens(on_gpu=self.model.device.type != "cpu")):
                vectors_nD[rows] = self.pooled([examples[row] for row in rows], bf16=bf16, pad_to_multiple=True).cpu()
                num_done += len(rows)
                recorder.log_progress(num_done, len(examples), phase=phase)
        self.model.train(was_training)
        return vectors_nD


class _LoadedModel(NamedTuple):
    model: Any
    tokenizer: Any


def _load(folder: Path, name: str) -> _LoadedModel:
    """Loads a model, or the encoder of a classifier, without its head, and its tokenizer, which pads on the right."""
    name = name.partition("#")[0]
    refuse_adapter(folder, MERGE)
    if not (folder / "config.json").exists():
        raise AssetError(f"{name} has no config.json.", "Specify the folder of a transformers encoder.")
    refuse_pickled(folder)
    refuse_code(folder)
    architecture = architecture_of(folder)
    has_encoder = architecture.endswith(("ForConditionalGeneration", "EncoderModel"))
    auto_class = AutoModelForTextEncoding if has_encoder else AutoModel
    is_classifier = architecture == ClozelineForSequenceClassification.__name__
    model_class = ClozelineForSequenceClassification if is_classifier else auto_class
    try:
        model = model_class.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=attention_implementation(),
            use_safetensors=True,
            trust_remote_code=False,
        )
        model = model.encoder if is_classifier else model
        # with its config, transformers does not ask whether to run the code in the folder of a classifier
        tokenizer = load_tokenizer(folder, config=model.config)
    except (KeyError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise AssetError(f"{name} cannot be loaded ({reason}).", "Specify an encoder or a language model.") from error
    if not hasattr(model.config, "hidden_size"):
        raise AssetError(f"{name} ({architecture}) has no single hidden size.", "Specify a text model.")
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # nothing is generated
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    return _LoadedModel(model, tokenizer)
