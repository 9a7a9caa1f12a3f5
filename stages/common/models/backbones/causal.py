"""Causal language models, such as GPT-2 and Llama: the label word is the next token after the text.

Text after the mask is scored together with the label word. For the letters in names of tensors see
stages/common/models/backbones/base.py; P positions in a cache, T positions that are read now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from stages.common.models.backbones.base import DecoderlessBackbone, widen
from stages.common.models.backbones.prefix_attention import prefixed
from stages.common.models.backbones.soft_input import KeysAndValues, SoftInput, chosen_keys_and_values
from stages.common.models.batching import EncodedBatch
from stages.common.patterns.config import Decoding, Family
from stages.common.patterns.encoding import Encoded
from stages.common.patterns.verbalizers import Word

HEAD_ROWS = 512
"""Positions that go through the LM head at once: a row of logits is as wide as the vocabulary."""


class CausalBackbone(DecoderlessBackbone):
    """A causal language model with its tokenizer."""

    family: ClassVar[Family] = "causal"
    peft_task_type: ClassVar[str | None] = "CAUSAL_LM"

    def num_reserved_tokens(self, num_word_tokens: int, *, ends_in_mask: bool) -> int:
        if num_word_tokens == 1 and ends_in_mask:
            return 0  # the logits of the next token are read; the word itself is never part of the input
        return num_word_tokens

    def label_word_index(self, encoded: Encoded) -> int:
        return len(encoded.ids)

    def continue_from_cache(self, embeddings_BTD: Tensor, attention_mask: Tensor, cache: Any) -> Tensor:
        """Reads on after the cached positions; returns the last hidden states, [B, T, D].

        Args:
            embeddings_BTD: Input embeddings of the new positions.
            attention_mask: [B, P + T], including the P positions in the cache.
            cache: A cache of transformers; grows by T positions.
        """
        positions = self._position_ids(attention_mask, SoftInput())
        states_BTD: Tensor = self._body()(
            inputs_embeds=embeddings_BTD,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **{name: values[:, -embeddings_BTD.shape[1] :] for name, values in positions.items()},
        ).last_hidden_state
        return states_BTD

    def multi_token_scores(
        self,
        encoded: Sequence[Encoded],
        words: Sequence[Word],
        *,
        decoding: Decoding,
        prompt: SoftInput | None,
        training: bool,
    ) -> Tensor:
        """Returns the log-likelihood of each word and of the text after it, given the text before it: [B, W]."""
        del decoding, training
        endings = [[*word, *item.suffix] for item in encoded for word in words]
        texts = [item for item in encoded for _ in words]
        full_texts = [
            Encoded(
                text.ids + tuple(ending),
                text.token_type_ids + (0,) * len(ending),
                len(text.ids) + len(ending) - 1,
                soft_positions=text.soft_positions,
            )
            for text, ending in zip(texts, endings, strict=True)
        ]
        prompt = prompt and prompt.repeated(len(words))
        batch = self.batch(full_texts)
        longest = max(len(ending) for ending in endings)
        lengths_R1 = torch.tensor([len(ending) for ending in endings], device=self.device)[:, None]
        # The last `longest` tokens of a text hold its ending. Each position predicts the next one.
        from_end_T = torch.arange(longest, 0, -1, device=self.device)
        is_ending_RT = from_end_T <= lengths_R1
        rows_R1 = torch.arange(len(endings), device=self.device)[:, None]
        columns_RT = (batch.mask_position[:, None] + 1 - from_end_T).clamp(min=1)
        states_MD = self.hidden_states(batch, prompt)[rows_R1, columns_RT - 1][is_ending_RT]
        targets_M = batch.input_ids[rows_R1, columns_RT][is_ending_RT]
        # Workers that each hold a part of the head must apply it the same number of times, whatever their texts.
        num_rows = max(1, len(states_MD)) if self.is_partitioned else HEAD_ROWS
        losses = [
            F.cross_entropy(self.lm_head(states).float(), targets, reduction="none")
            for states, targets in zip(states_MD.split(num_rows), targets_M.split(num_rows), strict=True)
        ]
        log_RT = torch.zeros(is_ending_RT.shape, device=self.device).masked_scatter(is_ending_RT, -torch.cat(losses))
        return log_RT.sum(dim=1).view(len(encoded), len(words))

    def token_keys_and_values(self, tokens_BL: Tensor) -> list[KeysAndValues]:
        cache: Any = DynamicCache()
        self._body()(input_ids=tokens_BL, past_key_values=cache, use_cache=True)
        return [KeysAndValues(layer.keys, layer.values) for layer in cache.layers]

    @contextmanager
    def layers_prefixed(self, prompt: SoftInput, size: int) -> Iterator[None]:
        """Adds a deep prompt whose layers differ in length to passes inside the block: a cache has one length."""
        if prompt.layers is None or prompt.lengths is None:
            yield
            return
        dtype = self.model.get_input_embeddings().weight.dtype
        with prefixed(self._body(), chosen_keys_and_values(prompt.layers, size, dtype, prompt.lengths)):
            yield

    @contextmanager
    def _inputs(self, batch: EncodedBatch, prompt: SoftInput | None) -> Iterator[dict[str, Any]]:
        prompt = prompt or SoftInput()
        arguments = self._text_inputs(batch, prompt)
        mask = widen(batch.attention_mask, prompt.num_before)
        arguments |= self._position_ids(mask, prompt)
        if self._takes("use_cache"):
            arguments["use_cache"] = prompt.layers is not None and prompt.lengths is None
        if prompt.lengths is not None:
            with self.layers_prefixed(prompt, len(batch.mask_position)):
                yield arguments
            return
        if prompt.layers is not None:
            dtype = self.model.get_input_embeddings().weight.dtype
            arguments["past_key_values"] = prompt.cache(len(batch.mask_position), dtype)
            arguments["attention_mask"] = widen(mask, prompt.num_positions)
        yield arguments
