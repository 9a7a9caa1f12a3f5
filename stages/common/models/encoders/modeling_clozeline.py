"""A text classifier as transformers loads it: model, config and pipeline.

This file is copied into the folder of each classifier, so it imports nothing but torch and transformers:

    pipeline("text-classification", FOLDER, trust_remote_code=True)("A joy from start to end.")

Letters in names of tensors: B batch, L length, C labels, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
    TextClassificationPipeline,
)
from transformers.modeling_outputs import SequenceClassifierOutput


class ClozelineConfig(PreTrainedConfig):
    """Config of an encoder with a linear head.

    Args:
        encoder: Config of the encoder, as a mapping.
        pooling: The vector of a text: mean (over its tokens), cls (the first token) or last (the last token).
        prefix: Put before each text.
        separator: Put before the second text of a pair.
        max_tokens: Maximum number of tokens that are read.
        vector_norm: Length of the vectors that the head reads.
    """

    model_type = "clozeline"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        pooling: str = "mean",
        prefix: str = "",
        separator: str = "",
        max_tokens: int = 128,
        vector_norm: float = 1.0,
        **others: Any,
    ) -> None:
        self.encoder = encoder or {}
        self.pooling = pooling
        self.prefix = prefix
        self.separator = separator
        self.max_tokens = max_tokens
        self.vector_norm = vector_norm
        super().__init__(**others)


class ClozelineForSequenceClassification(PreTrainedModel):
    """encoder -> one vector per text [B, D] -> linear head -> logits [B, C]."""

    config_class = ClozelineConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: ClozelineConfig) -> None:
        requested = config._attn_implementation
        super().__init__(config)
        settings = dict(config.encoder)
        encoder = AutoConfig.for_model(settings.pop("model_type"), **settings)
        # of an encoder-decoder model, only the encoder is used
        is_part = (encoder.architectures or [""])[0].endswith("EncoderModel")
        auto_class = AutoModelForTextEncoding if is_part else AutoModel
        options = {"attn_implementation": requested} if requested else {}
        self.encoder = auto_class.from_config(encoder, **options)
        self.head = torch.nn.Linear(encoder.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        """Returns the logits, [B, C].

        Args:
            input_ids: [B, L], padded on the right.
            attention_mask: [B, L], 1 for tokens and 0 for padding.
            token_type_ids: [B, L], for encoders with segments.
        """
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states_BLD = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state
        pooled_BD = pool(states_BLD.float(), attention_mask, self.config.pooling)
        logits_BC = self.head(F.normalize(pooled_BD, dim=1) * self.config.vector_norm)
        return SequenceClassifierOutput(logits=logits_BC)


class ClozelinePipeline(TextClassificationPipeline):
    """Reads a text, or a pair {"text": ..., "text_pair": ...}, and truncates it to what the encoder reads."""

    def check_model_type(self, supported_models: Any) -> None:
        """Does nothing: the list of transformers does not have the model of this file."""

    def preprocess(self, inputs: str | dict[str, str], **tokenizer_kwargs: Any) -> Any:
        """Returns the tokens of a text or a pair."""
        config = self.model.config
        pair = {"text": inputs} if isinstance(inputs, str) else inputs
        texts = [config.prefix + pair["text"]]
        if pair.get("text_pair") is not None:
            texts.append(config.separator + config.prefix + pair["text_pair"])
        settings = {
            "truncation": True,
            "max_length": config.max_tokens,
            "return_token_type_ids": config.encoder.get("type_vocab_size", 0) > 1,
            "return_tensors": "pt",
        }
        return self.tokenizer(*texts, **(settings | tokenizer_kwargs))


def pool(states_BLD: Tensor, mask_BL: Tensor, pooling: str) -> Tensor:
    """Returns one vector per text, [B, D].

    Args:
        states_BLD: Hidden states, padded on the right.
        mask_BL: 1 for tokens and 0 for padding.
        pooling: mean over the tokens, cls (the first token) or last (the last token).
    """
    if pooling == "cls":
        return states_BLD[:, 0]
    if pooling == "last":
        return states_BLD[torch.arange(len(mask_BL), device=mask_BL.device), mask_BL.sum(dim=1) - 1]
    weight_BL1 = mask_BL[:, :, None].to(states_BLD.dtype)
    return (states_BLD * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1)
