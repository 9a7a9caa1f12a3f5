"""Sequence-to-sequence language models, such as T5: the decoder writes the label word after its first sentinel.

For the letters in names of tensors see stages/common/models/backbones/base.py; T tokens that the decoder reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone, widen
from stages.common.models.backbones.head_path import only_words
from stages.common.models.backbones.prefix_attention import prefixed
from stages.common.models.backbones.soft_input import KeysAndValues, PrefixPlace, SoftInput, chosen_keys_and_values
from stages.common.models.batching import EncodedBatch
from stages.common.patterns.config import Decoding, Family
from stages.common.patterns.encoding import Encoded, mask_token_id
from stages.common.patterns.verbalizers import Word


class EncoderOutput(NamedTuple):
    """States [B, N + L, D] of the encoder, and the mask [B, N + L] of what the decoder sees of them."""

    states: Tensor
    mask: Tensor


def decoder_start_id(model: Any) -> int:
    """Returns the id that starts the decoder, which is in the generation config of a saved model.

    Raises:
        InputError: neither config has it.
    """
    for config in (model.config, model.generation_config):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return int(start)
    raise InputError(
        "the model does not say which token starts its decoder.",
        "Set decoder_start_token_id in the generation_config.json of the backbone.",
    )


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
        encoded = self.encode(batch, prompt)
        size = len(encoded.states)
        with self.cross_prefixed(prompt, size, encoded.states.dtype):
            decoder_states: Tensor = self.model.get_decoder()(
                input_ids=torch.tensor([self._start_ids()], device=encoded.states.device).expand(size, -1),
                encoder_hidden_states=encoded.states,
                encoder_attention_mask=encoded.mask,
                **self.decoder_cache(size, prompt, encoded.states.dtype),
            )[0]
        return decoder_states[:, -1]

    def mask_rows(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        """Returns [B, V] logits: the decoder and its LM head run together."""
        return self.vocabulary_logits(batch, prompt)

    def word_columns(self, rows: Tensor, word_ids: Sequence[int]) -> Tensor:
        return rows[:, list(word_ids)]

    def word_logits(self, batch: EncodedBatch, word_ids: Sequence[int], prompt: SoftInput | None = None) -> Tensor:
        if not self.traits.reads_word_rows:
            return super().word_logits(batch, word_ids, prompt)
        with only_words(self.model.get_output_embeddings(), word_ids):
            return self.vocabulary_logits(batch, prompt)

    def encode(self, batch: EncodedBatch, prompt: SoftInput | None) -> EncoderOutput:
        """Returns the states of the encoder, with those of vectors before the text."""
        num_before = 0 if prompt is None else prompt.num_before
        parts = self._parts(batch)
        states_BLD: Tensor | None = None
        for rows, length in parts:
            part = batch if len(parts) == 1 else batch.select(rows, length)
            with self._inputs(part, prompt if len(parts) == 1 else prompt and prompt.select(rows)) as arguments:
                part_BLD = self._stack()(**arguments)[0]
            if states_BLD is None:
                shape = (len(batch.input_ids), num_before + batch.input_ids.shape[1], part_BLD.shape[-1])
                states_BLD = part_BLD.new_zeros(shape)
            padded = F.pad(part_BLD, (0, 0, 0, batch.input_ids.shape[1] - length))
            states_BLD = part_BLD if len(parts) == 1 else states_BLD.index_copy(0, rows, padded)
        assert states_BLD is not None
        return EncoderOutput(states_BLD, widen(batch.attention_mask, num_before))

    def decoder_logits(self, batch: EncodedBatch, written: Tensor, prompt: SoftInput | None = None) -> Tensor:
        """Returns the logits of what the decoder writes after its first sentinel, where T5 writes the masked text.

        Args:
            batch: B texts, from `batch`.
            written: [B * W, T] ids after the sentinel, W rows per text.
            prompt: The soft prompt, if any.

        Returns:
            [B * W, T + 1, V] float32: the logits of the first token, and of the token after each written one.
        """
        encoded = self.encode(batch, prompt)
        times = len(written) // len(batch.mask_position)
        start = torch.tensor([self._start_ids()]).to(written.device).expand(len(written), -1)
        repeated = EncoderOutput(*(tensor.repeat_interleave(times, dim=0) for tensor in encoded))
        logits = self.decode(repeated, torch.cat([start, written], dim=1), prompt and prompt.repeated(times))
        return logits[:, 1:].float()

    def decode(self, encoded: EncoderOutput, read_BT: Tensor, prompt: SoftInput | None) -> Tensor:
        """Returns the logits [B, T, V] of the token after each one that the decoder reads.

        Args:
            encoded: B texts, from `encode`.
            read_BT: The ids that the decoder reads, with the one that starts it.
            prompt: The soft prompt, if any.
        """
        size, dtype = len(read_BT), encoded.states.dtype
        with self.cross_prefixed(prompt, size, dtype):
            logits_BTV: Tensor = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded.states),
                attention_mask=encoded.mask,
                decoder_input_ids=read_BT,
                **self.decoder_cache(size, prompt, dtype),
            ).logits
        return logits_BTV

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

    def place_keys_and_values(self, place: PrefixPlace, tokens_BL: Tensor) -> list[KeysAndValues]:
        """Returns the keys and values that each layer computes for these token ids, at one place of the model.

        In the encoder and in cross-attention they are those of a text with these tokens. Empty where the model does not
        look up its attention in the registry of transformers.
        """
        if place == "decoder":
            return self.token_keys_and_values(tokens_BL)
        with prefixed(self.model.get_encoder(), None) as reading:
            states = self.model.get_encoder()(input_ids=tokens_BL, attention_mask=torch.ones_like(tokens_BL))[0]
        return reading.text if place == "encoder" else self.cross_keys_and_values(states)

    def cross_keys_and_values(self, states_BLD: Tensor) -> list[KeysAndValues]:
        """Returns the keys and values that each layer of cross-attention computes for states of the encoder."""
        start_B1 = torch.full((len(states_BLD), 1), decoder_start_id(self.model), device=self.device)
        with prefixed(self.model.get_decoder(), None) as writing:
            self.model(encoder_outputs=BaseModelOutput(last_hidden_state=states_BLD), decoder_input_ids=start_B1)
        return writing.text[1::2]  # each layer attends to what is written, then to the text

    @contextmanager
    def cross_prefixed(self, prompt: SoftInput | None, size: int, dtype: torch.dtype) -> Iterator[None]:
        """Adds the keys and values of a prompt to cross-attention in passes of the decoder inside the block."""
        if prompt is None or prompt.cross is None:
            yield
            return
        pairs = chosen_keys_and_values(prompt.cross, size, dtype, prompt.lengths)
        calls = [item for pair in pairs for item in (None, pair)]
        with prefixed(self.model.get_decoder(), calls):
            yield

    def _stack(self) -> Any:
        return self.model.get_encoder()

    def _start_ids(self) -> list[int]:
        """The ids that the decoder starts from: its start token and the first sentinel."""
        return [decoder_start_id(self.model), mask_token_id(self.tokenizer, self.family)]

    def decoder_cache(self, size: int, prompt: SoftInput | None, dtype: torch.dtype) -> dict[str, Any]:
        """Returns the cache with a deep prompt: as in PEFT, the decoder treats it as text that it has already read."""
        if prompt is None or prompt.layers is None:
            return {"use_cache": False}
        return {"use_cache": True, "past_key_values": EncoderDecoderCache(prompt.cache(size, dtype), DynamicCache())}

    @contextmanager
    def _inputs(self, batch: EncodedBatch, prompt: SoftInput | None) -> Iterator[dict[str, Any]]:
        prompt = prompt or SoftInput()
        arguments = self._text_inputs(batch, prompt)
        if prompt.encoder is None:
            yield arguments
            return
        dtype = self.model.get_input_embeddings().weight.dtype
        calls = chosen_keys_and_values(prompt.encoder, len(batch.input_ids), dtype, prompt.lengths)
        with prefixed(self._stack(), calls):
            yield arguments
