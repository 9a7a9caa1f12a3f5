"""One interface for masked, causal and seq2seq language models: logits of label words at the mask.

Letters in names of tensors: B batch, L length, D hidden size, V vocabulary, W label words, N tokens of a label word,
R = B * W rows.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.models.backbones.head_path import given_states, only_words
from stages.common.models.backbones.partitioned import gathered, is_partitioned
from stages.common.models.backbones.soft_input import KeysAndValues, SoftInput
from stages.common.models.batching import EncodedBatch, pad_batch, round_up_length
from stages.common.models.config import eval_batch_tokens
from stages.common.models.model_files import config_max_positions
from stages.common.models.traits import ModelTraits
from stages.common.patterns.config import Decoding, Family
from stages.common.patterns.encoding import Encoded
from stages.common.patterns.verbalizers import Word


def num_embeddings(model: Any) -> int:
    """Returns the number of token embeddings of a model. Quantized tables, as in I-BERT, have no attribute for it."""
    table = model.get_input_embeddings()
    return int(getattr(table, "num_embeddings", len(table.weight)))


class Backbone(ABC):
    """A language model with its tokenizer. `model` may be trained, frozen or carry LoRA weights.

    Subclasses differ in where and how they read the label word: MaskedBackbone at the mask, CausalBackbone as the next
    token, Seq2SeqBackbone after the first sentinel of the decoder.
    """

    family: ClassVar[Family]
    peft_task_type: ClassVar[str | None] = None
    """PEFT's name of the family; it has none for masked models."""
    num_peft_submodules: ClassVar[int] = 1
    """Stacks with a deep prompt, as PEFT counts them: 2 for encoder and decoder."""

    def __init__(self, model: Any, tokenizer: Any, traits: ModelTraits) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.traits = traits
        self.pad_id = int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
        self.eval_batch_tokens = eval_batch_tokens(on_gpu=self.is_on_gpu)
        """Padded tokens of a pass without gradients."""

    @property
    def device(self) -> torch.device:
        """The device of the model's embeddings."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def is_on_gpu(self) -> bool:
        """True if the model computes on a GPU."""
        return self.device.type != "cpu"

    @property
    def embedding_size(self) -> int:
        """Width of the input embeddings, and thereby of the vectors of a soft prompt."""
        return int(self.model.get_input_embeddings().embedding_dim)

    @cached_property
    def hidden_size(self) -> int:
        """Width of the last hidden states, which need not be that of the layers."""
        token = Encoded((self.pad_id,), (0,), 0)
        with torch.no_grad():
            return int(self.hidden_states(self.batch([token])).shape[-1])

    @property
    def is_partitioned(self) -> bool:
        """True if the weights are spread over several workers, which must then run the same number of passes."""
        return any(map(is_partitioned, self.model.parameters()))

    @property
    def digest(self) -> str:
        """Distinguishes backbones of the same shape: a digest of some embeddings, equal for all precisions."""
        with gathered(self.model.get_input_embeddings().weight) as table:
            some = table[:: max(1, len(table) // 64)].detach().to("cpu", torch.bfloat16).contiguous()
        return hashlib.sha256(some.view(torch.int16).numpy().tobytes()).hexdigest()[:16]

    @property
    def max_positions(self) -> int | None:
        """Maximum number of tokens in the input; None if the model sets no limit."""
        return config_max_positions(self.model.config.to_dict(), self.traits.position_limit)

    def freeze(self) -> Backbone:
        """Switches off all gradients and dropout; returns itself."""
        self.model.requires_grad_(False)
        self.model.eval()
        return self

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Switches gradients and dropout off inside the block."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(was_training)

    def batch(
        self, encoded: Sequence[Encoded], prompt: SoftInput | None = None, *, pad_to_multiple: bool = False
    ) -> EncodedBatch:
        """Pads to the longest example, on the side on which padding does not change the text.

        Args:
            encoded: [B] texts.
            prompt: The soft prompt of the pass, which needs positions too.
            pad_to_multiple: Pads to a multiple of batching.PAD_TO_MULTIPLE_OF, as far as the positions suffice.
        """
        longest = max(len(item.ids) for item in encoded)
        if pad_to_multiple and self.traits.padding != "none":
            num_used = prompt.num_before + prompt.num_positions if prompt else 0
            limit = math.inf if self.max_positions is None else self.max_positions - num_used
            longest = int(max(longest, min(round_up_length(longest), limit)))
        return pad_batch(encoded, longest, self.pad_id, left=self.traits.padding == "left", device=self.device)

    def word_logits(self, batch: EncodedBatch, word_ids: Sequence[int], prompt: SoftInput | None = None) -> Tensor:
        """Returns the raw logits of single-token words at the mask, [B, W] float32.

        Args:
            batch: From `batch`.
            word_ids: [W] token ids.
            prompt: The soft prompt, if any.
        """
        return self.word_columns(self.mask_rows(batch, prompt), word_ids)

    def mask_rows(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        """Returns one row per text from which `word_columns` reads words: [B, D] hidden states, or [B, V] logits."""
        reads_words = self.traits.reads_word_rows
        return self.mask_hidden_state(batch, prompt) if reads_words else self.vocabulary_logits(batch, prompt)

    def word_columns(self, rows: Tensor, word_ids: Sequence[int]) -> Tensor:
        """Returns the raw logits [B, W] of words, from rows of `mask_rows`.

        The logits of a few words do not need those of the full vocabulary, and are float32 in every precision: in
        bfloat16, which has three digits, labels would often be equal.
        """
        if not self.traits.reads_word_rows:
            return rows[:, list(word_ids)]
        with only_words(self.model.get_output_embeddings(), word_ids):
            return self.lm_head(rows).float()

    @abstractmethod
    def vocabulary_logits(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        """Returns the raw logits of the vocabulary at the mask, [B, V] float32; arguments as in `word_logits`."""

    @abstractmethod
    def mask_hidden_state(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        """Returns [B, D]: the last hidden state from which the label word is predicted."""

    @abstractmethod
    def multi_token_scores(
        self,
        encoded: Sequence[Encoded],
        words: Sequence[Word],
        *,
        decoding: Decoding,
        prompt: SoftInput | None,
        training: bool,
    ) -> Tensor:
        """Returns log-likelihoods of words of any number of tokens, [B, W] float32.

        For the arguments see `word_scores` of stages/common/models/cloze/label_word_scores.py
        """

    @abstractmethod
    def num_reserved_tokens(self, num_word_tokens: int, *, ends_in_mask: bool) -> int:
        """Returns the number of tokens to keep free for label words of `num_word_tokens` tokens.

        Args:
            num_word_tokens: Tokens of the longest label word.
            ends_in_mask: True if the pattern has nothing after the mask.
        """

    @abstractmethod
    def token_keys_and_values(self, tokens_BL: Tensor) -> list[KeysAndValues]:
        """Returns the keys and values that each layer computes for these token ids."""

    def label_word_index(self, encoded: Encoded) -> int:
        """Returns the index in `encoded.ids` where the label word goes."""
        return encoded.mask_position

    def hidden_states(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        """Returns the last hidden states of the text, [B, L, D], without those of vectors before it."""
        parts = self._parts(batch)
        if len(parts) == 1:
            return self._one_length(batch, prompt)
        states_BLD: Tensor | None = None
        for rows, length in parts:
            part = self._one_length(batch.select(rows, length), prompt and prompt.select(rows))
            if states_BLD is None:
                states_BLD = part.new_zeros(*batch.input_ids.shape, part.shape[-1])
            padded = F.pad(part, (0, 0, 0, batch.input_ids.shape[1] - length))
            states_BLD = states_BLD.index_copy(0, rows, padded)
        assert states_BLD is not None
        return states_BLD

    def _one_length(self, batch: EncodedBatch, prompt: SoftInput | None) -> Tensor:
        """Returns the last hidden states of one pass, [B, L, D]."""
        with self._inputs(batch, prompt) as arguments:
            states_BLD: Tensor = self._stack()(**arguments)[0]
        return states_BLD[:, 0 if prompt is None else prompt.num_before :]

    def _parts(self, batch: EncodedBatch) -> list[tuple[Tensor, int]]:
        """Returns rows and lengths of the passes: one, or one per length if padding would change the texts."""
        lengths_B = batch.attention_mask.sum(dim=1)
        if self.traits.padding != "none" or bool((lengths_B == batch.input_ids.shape[1]).all()):
            return [(torch.arange(len(lengths_B), device=lengths_B.device), batch.input_ids.shape[1])]
        return [((lengths_B == length).nonzero()[:, 0], int(length)) for length in lengths_B.unique()]

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Applies the LM head: hidden states [..., D] -> logits [..., V]. Apply it only at positions that you need.

        The forward pass of the model runs with these states in place of those of its body. So whatever it does after
        its body is done here, too, such as to scale or to cap the logits.
        """
        states_1MD = hidden.reshape(1, -1, hidden.shape[-1])
        ids_1M = torch.zeros(states_1MD.shape[:2], dtype=torch.long, device=hidden.device)
        with given_states(self.model, self.traits.body, states_1MD):
            logits: Tensor = self.model(input_ids=ids_1M).logits
        return logits.reshape(*hidden.shape[:-1], logits.shape[-1])

    def _body(self) -> Any:
        """The module whose last hidden states the LM head reads. A PEFT wrapper does not hide it."""
        return self.model.get_submodule(self.traits.body)

    def _stack(self) -> Any:
        """The module that reads the text."""
        return self._body()

    def _takes(self, name: str) -> bool:
        """Returns True if the module that reads the text takes this argument."""
        return name in inspect.signature(self._stack().forward).parameters

    @abstractmethod
    def _inputs(self, batch: EncodedBatch, prompt: SoftInput | None) -> AbstractContextManager[dict[str, Any]]:
        """Yields the arguments of the module that reads the text, for one pass inside the block."""

    def _text_inputs(self, batch: EncodedBatch, prompt: SoftInput) -> dict[str, Any]:
        """Returns token ids, or embeddings if `prompt` has vectors in the input, and the attention mask."""
        mask = {"attention_mask": widen(batch.attention_mask, prompt.num_before)}
        if not self._takes("attention_mask"):
            mask = {}
        if prompt.before is None and prompt.inside is None:
            return {"input_ids": batch.input_ids, **mask}
        table = self.model.get_input_embeddings()
        return {"inputs_embeds": prompt.embedded(table(batch.input_ids), batch.soft_positions), **mask}


class DecoderlessBackbone(Backbone):
    """What masked and causal models share: one stack, which reads the label word from a hidden state of the text."""

    def vocabulary_logits(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        return self.lm_head(self.mask_hidden_state(batch, prompt)).float()

    def mask_hidden_state(self, batch: EncodedBatch, prompt: SoftInput | None = None) -> Tensor:
        rows = torch.arange(len(batch.mask_position), device=batch.mask_position.device)
        return self.hidden_states(batch, prompt)[rows, batch.mask_position]

    def _position_ids(self, attention_mask: Tensor, prompt: SoftInput) -> dict[str, Tensor]:
        """Returns the position of each token, not counting padding, if the model takes positions.

        Positions of a deep prompt come first.
        """
        if self.traits.positions == "none":
            return {}
        position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0) + prompt.num_positions
        if self.traits.positions == "after_pad":
            position_ids = position_ids + self.model.config.pad_token_id + 1
        return {"position_ids": position_ids}


def widen(attention_mask_BL: Tensor, count: int) -> Tensor:
    """Returns [B, count + L]: adds positions before the text that every token sees."""
    return F.pad(attention_mask_BL, (count, 0), value=1)
