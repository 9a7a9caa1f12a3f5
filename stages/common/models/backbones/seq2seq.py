"""Sequence-to-sequence language models, such as T5: the decoder writes the label word after its first sentinel.

For the letters in names of tensors see stages/common/models/backbones/base.py; T tokens that the decoder reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.soft_input import KeysAndValues, SoftInput
from stages.common.models.batching import EncodedBatch
from stages.common.patterns.config import Decoding, Family
from stages.common.patterns.encoding import Encoded, mask_token_id
from stages.common.patterns.verbalizers import Word


class Seq2SeqBackbone(Backbone):
    """A sequence-to-sequence language model with its tokenizer. `hidden_states` are those of its encoder."""

    family: ClassVar[Family] = "seq2seq"
    peft_task_type: ClassVar[str | None] = "SEQ_2_SEQ_LM"
    num_peft_submodules: ClassVar[int] = 2

    def num_reserved_tokens(self, num_word_tokens: int, *, ends_in_mask: bool) -> int:
        del num_word_tokens, ends_in_mask
        return 0  # the decoder writes label words

    def vocabulary_logits(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        empty = torch.zeros(len(batch.mask_position), 0, dtype=torch.long, device=batch.mask_position.device)
        return self.decoder_logits(batch, empty, prompt)[:, 0]

    def mask_hidden_state(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        with self._inputs(batch, prompt) as arguments:
            states_BLD = self._body()(**arguments).last_hidden_state
        decoder_states: Tensor = self.model.get_decoder()(
            input_ids=torch.tensor([self._start_ids()], device=states_BLD.device).expand(len(states_BLD), -1),
            encoder_hidden_states=states_BLD,
            encoder_attention_mask=arguments["attention_mask"],
            **self._decoder_cache(len(states_BLD), prompt, states_BLD.dtype),
        ).last_hidden_state
        return decoder_states[:, -1]

    def decoder_logits(self, batch: EncodedBatch, written: Tensor, prompt: SoftInput | None = None) -> Tensor:
        """Returns the logits of what the decoder writes after its first sentinel, where T5 writes the masked text.

        Args:
            batch: B texts, from `batch`.
            written: [B * W, T] ids after the sentinel, W rows per text.
            prompt: The soft prompt, if any.

        Returns:
            [B * W, T + 1, V] float32: the logits of the first token, and of the token after each written one.
        """
        with self._inputs(batch, prompt) as arguments:
            states_BLD = self._body()(**arguments).last_hidden_state
        times = len(written) // len(batch.mask_position)
        start = torch.tensor([self._start_ids()])
        logits: Tensor = self.model(
            encoder_outputs=(states_BLD.repeat_interleave(times, dim=0),),
            attention_mask=arguments["attention_mask"].repeat_interleave(times, dim=0),
            decoder_input_ids=torch.cat([start.to(written.device).expand(len(written), -1), written], dim=1),
            **self._decoder_cache(len(written), prompt and prompt.repeated(times), states_BLD.dtype),
        ).logits
        return logits[:, 1:].float()

    def multi_token_scores(
        self,
        encoded: Sequence[Encoded],
        words: Sequence[Word],
        *,
        decoding: Decoding,
        prompt: SoftInput | None,
        training: bool,
    ) -> Tensor:
        """Returns the log-likelihood of each word after the sentinel, [B, W]."""
        del decoding, training
        longest = max(len(word) for word in words)
        written_WT = torch.full((len(words), longest), self.pad_id)
        is_token_WT = torch.zeros(len(words), longest, dtype=torch.bool)
        for number, word in enumerate(words):
            written_WT[number, : len(word)] = torch.tensor(word)
            is_token_WT[number, : len(word)] = True
        written_RT = written_WT.repeat(len(encoded), 1).to(self.device)
        logits_RTV = self.decoder_logits(self.batch(encoded), written_RT[:, :-1], prompt)
        log_RT = logits_RTV.log_softmax(dim=2).gather(2, written_RT[:, :, None])[:, :, 0]
        is_token_RT = is_token_WT.repeat(len(encoded), 1).to(self.device)
        return (log_RT * is_token_RT).sum(dim=1).view(len(encoded), len(words))

    def token_keys_and_values(self, tokens_BL: Tensor) -> list[KeysAndValues]:
        """Returns the keys and values of the decoder, which reads the tokens after an empty text."""
        cache: Any = DynamicCache()
        self.model(
            input_ids=torch.tensor([[self.tokenizer.eos_token_id]], device=self.device),
            decoder_input_ids=tokens_BL,
            past_key_values=EncoderDecoderCache(cache, DynamicCache()),
            use_cache=True,
        )
        return [KeysAndValues(layer.keys, layer.values) for layer in cache.layers]

    def _body(self) -> Any:
        return self.model.get_encoder()

    def _start_ids(self) -> list[int]:
        """The ids that the decoder starts from: its start token and the first sentinel."""
        return [self.model.config.decoder_start_token_id, mask_token_id(self.tokenizer, self.family)]

    def _decoder_cache(self, size: int, prompt: SoftInput | None, dtype: torch.dtype) -> dict[str, Any]:
        """Returns the cache with a deep prompt: as in PEFT, the decoder treats it as text that it has already read."""
        if prompt is None or prompt.layers is None:
            return {"use_cache": False}
        return {"use_cache": True, "past_key_values": EncoderDecoderCache(prompt.cache(size, dtype), DynamicCache())}

    @contextmanager
    def _inputs(self, batch: EncodedBatch, prompt: SoftInput | None) -> Iterator[dict[str, Any]]:
        yield self._text_inputs(batch, prompt or SoftInput())
