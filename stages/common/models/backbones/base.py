"""One interface for masked, causal and seq2seq language models: logits of label words at the mask.

Letters in names of tensors: B batch, L length, M soft vectors in the text, D hidden size, V vocabulary, W label words.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from stages.common.errors import InputError
from stages.common.models.backbones.prefix_attention import prefixed
from stages.common.models.backbones.soft_input import SoftInput, gathered, is_partitioned
from stages.common.models.batching import EncodedBatch, padded, round_up_length
from stages.common.models.config import eval_batch_tokens
from stages.common.models.model_files import POSITIONS_AFTER_PAD, config_max_positions
from stages.common.patterns.config import Family
from stages.common.patterns.encoding import Encoded, mask_token_id


class Backbone:
    """A language model with its tokenizer. `model` may be trained, frozen or carry LoRA weights: this class does not
    care. `read_tokens`: padded tokens of a pass without gradients.
    """

    def __init__(self, model: Any, tokenizer: Any, family: Family) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.family = family
        self.pad_id = int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
        self.eval_batch_tokens = eval_batch_tokens(on_gpu=self.is_on_gpu)

    @property
    def device(self) -> torch.device:
        """Where the model's embeddings lie."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def is_on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device.type != "cpu"

    @property
    def embedding_size(self) -> int:
        """Width of the input embeddings, and so of a soft prompt's vectors."""
        return int(self.model.get_input_embeddings().embedding_dim)

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden states."""
        return int(self.model.config.hidden_size)

    @property
    def is_partitioned(self) -> bool:
        """Whether its weights lie on several workers, each of which then has to make the same passes."""
        return is_partitioned(self.model.get_input_embeddings().weight)

    @property
    def digest(self) -> str:
        """What tells it from other backbones of its shape: a digest of some of its embeddings, in bfloat16, so that
        every precision has the same.
        """

        with gathered(self.model.get_input_embeddings().weight) as table:
            some = table[:: max(1, len(table) // 64)].detach().to("cpu", torch.bfloat16).contiguous()
        return hashlib.sha256(some.view(torch.int16).numpy().tobytes()).hexdigest()[:16]

    @property
    def max_positions(self) -> int | None:
        """How many tokens it can read; None where nothing limits them."""
        return config_max_positions(self.model.config.to_dict())

    def freeze(self) -> Backbone:
        """Switches off all gradients and dropout; returns itself."""
        self.model.requires_grad_(False)
        self.model.eval()
        return self

    def batch(
        self, encoded: Sequence[Encoded], prompt: SoftInput | None = None, *, pad_to_multiple: bool = False
    ) -> EncodedBatch:
        """Pads to the longest example: on the left for causal models, so that the last position is the mask's.

        Args:
            encoded: [B] texts.
            prompt: What a soft prompt will put in, which takes positions as well.
            pad_to_multiple: Pads on to a length that many batches have, as far as there are positions (see batching.GRID).
        """
        longest = max(len(item.ids) for item in encoded)
        if pad_to_multiple:
            taken = prompt.num_before + prompt.num_places if prompt else 0
            room = math.inf if self.max_positions is None else self.max_positions - taken
            longest = int(max(longest, min(round_up_length(longest), room)))
        return padded(encoded, longest, self.pad_id, left=self.family == "causal", device=self.device)

    def word_logits(self, batch: EncodedBatch, word_ids: Sequence[int], prompt: SoftInput | None = None) -> Tensor:
        """The raw logits of words of one token at the mask.

        Args:
            batch: From `batch`.
            word_ids: [W] token ids.
            prompt: What a soft prompt puts in; None: nothing.

        Returns:
            [B, W], float32.
        """
        wanted = list(word_ids)
        if self.family == "causal":
            return self.label_word_logits(self.text_mask_state(batch, prompt), wanted)
        return self.vocabulary_logits(batch, prompt)[:, wanted]

    def vocabulary_logits(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        """[B, V] raw logits at the mask (of a seq2seq model behind the sentinel), float32; else as `word_logits`."""
        if self.family == "seq2seq":
            nothing = torch.zeros(len(batch.mask_position), 0, dtype=torch.long, device=batch.mask_position.device)
            return self.decoder_logits(batch, nothing, prompt)[:, 0]
        return self.lm_head(self.text_mask_state(batch, prompt)).float()

    def hidden_states(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        """[B, L, D] last hidden states of the text (of a seq2seq model: its encoder's); those of the prompt are cut
        off.
        """
        body = self.model.get_encoder() if self.family == "seq2seq" else _body(self.model)
        with self._inputs(batch, prompt) as arguments:
            states: Tensor = body(**arguments).last_hidden_state
        return states[:, 0 if prompt is None else prompt.num_before :]

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., V] by the LM head. Apply it where it is needed and nowhere else."""
        if self.family == "masked":
            logits: Tensor = _masked_head(self.model)(hidden)
            return logits
        found: Tensor = self.model.get_output_embeddings()(hidden)
        return found

    def label_word_logits(self, hidden: Tensor, word_ids: Sequence[int]) -> Tensor:
        """Hidden states [B, D] of a causal model -> raw logits [B, W] of these words alone, float32."""

        wanted = list(word_ids)
        head = self.model.get_output_embeddings()
        with gathered(head.weight) as weight:
            rows = weight[wanted].float()
        bias = None if head.bias is None else head.bias[wanted].float()
        return F.linear(hidden.float(), rows, bias)

    def continue_from_cache(self, embeddings: Tensor, attention_mask: Tensor, cache: Any) -> Tensor:
        """[B, T, D] last hidden states of a causal model that goes on reading behind what lies in its cache.

        Args:
            embeddings: [B, T, D] input embeddings of what is read now.
            attention_mask: [B, P + T], of the P places in the cache too.
            cache: A cache of transformers; grows by T places.
        """
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        states: Tensor = _body(self.model)(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return states

    def mask_hidden_state(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        """[B, D] last hidden state where the label word is read: at the mask, or behind the decoder's sentinel."""

        if self.family != "seq2seq":
            return self.text_mask_state(batch, prompt)
        with self._inputs(batch, prompt) as arguments:
            states = self.model.get_encoder()(**arguments).last_hidden_state
        start = [self.model.config.decoder_start_token_id, mask_token_id(self.tokenizer, "seq2seq")]
        found: Tensor = self.model.get_decoder()(
            input_ids=torch.tensor([start], device=states.device).expand(len(states), -1),
            encoder_hidden_states=states,
            encoder_attention_mask=arguments["attention_mask"],
            **self._decoder_cache(len(states), prompt, states.dtype),
        ).last_hidden_state
        return found[:, -1]

    def decoder_logits(self, batch: EncodedBatch, written: Tensor, prompt: SoftInput | None = None) -> Tensor:
        """What a seq2seq model writes behind its first sentinel, where T5 writes what the mask hides.

        Args:
            batch: From `batch`: B texts.
            written: [B * K, T] ids behind the sentinel, K rows for each text in turn.
            prompt: As in `word_logits`.

        Returns:
            [B * K, T + 1, V] float32: the logits of the first token, and of those after each written one.
        """

        with self._inputs(batch, prompt) as arguments:
            states = self.model.get_encoder()(**arguments).last_hidden_state
        times = len(written) // len(batch.mask_position)
        start = torch.tensor([[self.model.config.decoder_start_token_id, mask_token_id(self.tokenizer, "seq2seq")]])
        logits: Tensor = self.model(
            encoder_outputs=(states.repeat_interleave(times, dim=0),),
            attention_mask=arguments["attention_mask"].repeat_interleave(times, dim=0),
            decoder_input_ids=torch.cat([start.to(written.device).expand(len(written), -1), written], dim=1),
            **self._decoder_cache(len(written), prompt and prompt.repeated(times), states.dtype),
        ).logits
        return logits[:, 1:].float()

    def text_mask_state(self, batch: EncodedBatch, prompt: SoftInput | None) -> Tensor:
        """[B, D] last hidden state at the mask, of masked and causal models."""

        rows = torch.arange(len(batch.mask_position), device=batch.mask_position.device)
        return self.hidden_states(batch, prompt)[rows, batch.mask_position]

    def _decoder_cache(self, size: int, prompt: SoftInput | None, dtype: torch.dtype) -> dict[str, Any]:
        """A deep prompt of a seq2seq model is what its decoder seems to have read already, as in PEFT."""

        if prompt is None or prompt.layers is None:
            return {"use_cache": False}
        return {"use_cache": True, "past_key_values": EncoderDecoderCache(prompt.cache(size, dtype), DynamicCache())}

    @contextmanager
    def _inputs(self, batch: EncodedBatch, prompt: SoftInput | None) -> Iterator[dict[str, Any]]:
        """Arguments of the model's body (of a seq2seq model: its encoder's), for one pass in this context."""

        prompt = prompt or SoftInput()
        arguments: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        table = self.model.get_input_embeddings()
        if prompt.before is not None or prompt.inside is not None:
            arguments = {"inputs_embeds": prompt.embedded(table(batch.input_ids), batch.soft_positions)}
            arguments["attention_mask"] = _widened(batch.attention_mask, prompt.num_before)
        if self.family == "seq2seq":
            yield arguments
            return
        positions = (arguments["attention_mask"].cumsum(dim=1) - 1).clamp(min=0) + prompt.num_places
        if getattr(self.model.config, "model_type", "") in POSITIONS_AFTER_PAD:
            positions = positions + self.model.config.pad_token_id + 1
        arguments["position_ids"] = positions
        if self.family == "masked" and getattr(self.model.config, "type_vocab_size", 0) > 1:
            zeros = torch.zeros(
                len(batch.mask_position), prompt.num_before, dtype=torch.long, device=batch.mask_position.device
            )
            arguments["token_type_ids"] = torch.cat([zeros, batch.token_type_ids], dim=1)
        size, dtype = len(batch.mask_position), table.weight.dtype
        if self.family == "causal":
            arguments["use_cache"] = prompt.layers is not None
            if prompt.layers is not None:
                arguments["past_key_values"] = prompt.cache(size, dtype)
                arguments["attention_mask"] = _widened(arguments["attention_mask"], prompt.num_places)
        if self.family == "causal" or prompt.layers is None:
            yield arguments
            return
        with prefixed(self.model, prompt.keys_and_values(size, dtype)):
            yield arguments


def _widened(attention_mask: Tensor, count: int) -> Tensor:
    """[B, L] -> [B, count + L]: places before the text that everything sees."""

    return F.pad(attention_mask, (count, 0), value=1)


_HEADS = ("cls", "lm_head", "predictions")


def _masked_head(model: Any) -> Any:
    if hasattr(model, "head") and hasattr(model, "decoder"):  # ModernBERT keeps the two halves apart
        return lambda hidden: model.decoder(model.head(hidden))
    for name in _HEADS:
        if hasattr(model, name):
            return getattr(model, name)
    raise InputError(
        f"{type(model).__name__} has no masked-LM head that is known ({', '.join(_HEADS)}).",
        "Take a backbone of the BERT, RoBERTa, ALBERT or ModernBERT family.",
    )


def _body(model: Any) -> Any:
    """The model without its LM head. `base_model` of transformers, which PEFT's wrapping does not hide."""
    return model.base_model
