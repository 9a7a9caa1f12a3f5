"""Masked language models, such as BERT, RoBERTa, ALBERT and ModernBERT: they read the label word at the mask.

Words of several tokens follow PET's second paper (Schick & Schütze, NAACL 2021, section 3). In training, one pass has
as many masks as the longest word has tokens. In evaluation, each word has its own number of masks, which are filled one
after the other: `default` the most confident first, `ltr` from left to right, `parallel` all at once. The original
scores one text at a time; here every text and word of a batch is a row of one forward pass. For the letters in names of
tensors see stages/common/models/backbones/base.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.models.backbones.base import DecoderlessBackbone, widen
from stages.common.models.backbones.prefix_attention import prefixed
from stages.common.models.backbones.soft_input import KeysAndValues, SoftInput, chosen_keys_and_values
from stages.common.models.batching import EncodedBatch
from stages.common.patterns.config import Decoding, Family
from stages.common.patterns.encoding import Encoded
from stages.common.patterns.verbalizers import Word


class MaskedBackbone(DecoderlessBackbone):
    """A masked language model with its tokenizer."""

    family: ClassVar[Family] = "masked"

    def num_reserved_tokens(self, num_word_tokens: int, *, ends_in_mask: bool) -> int:
        del ends_in_mask
        return num_word_tokens - 1  # the pattern has one mask already

    def multi_token_scores(
        self,
        encoded: Sequence[Encoded],
        words: Sequence[Word],
        *,
        decoding: Decoding,
        prompt: SoftInput | None,
        training: bool,
    ) -> Tensor:
        if training:
            return self._fixed_mask_scores(encoded, words, prompt)
        scores_BW = torch.zeros(len(encoded), len(words), device=self.device)
        for count in sorted({len(word) for word in words}):  # words of the same length share their first pass
            numbers = [number for number, word in enumerate(words) if len(word) == count]
            batch = self.batch([item.with_masks(count) for item in encoded])
            targets_WN = torch.tensor([words[number] for number in numbers], device=self.device)
            scores_BW[:, numbers] = self._filled_mask_scores(batch, targets_WN, decoding, prompt)
        return scores_BW

    def _fixed_mask_scores(self, encoded: Sequence[Encoded], words: Sequence[Word], prompt: SoftInput | None) -> Tensor:
        """Returns [B, W]: reads a word of N tokens from the first N masks; there are enough for the longest word."""
        longest = max(len(word) for word in words)
        batch = self.batch([item.with_masks(longest) for item in encoded])
        log_BNV = self._mask_log_probabilities(batch, longest, prompt)
        indices = [torch.arange(len(word), device=log_BNV.device) for word in words]
        return torch.stack(
            [log_BNV[:, index, list(word)].sum(dim=1) for index, word in zip(indices, words, strict=True)], 1
        )

    def _mask_log_probabilities(self, batch: EncodedBatch, count: int, prompt: SoftInput | None) -> Tensor:
        """Returns log-probabilities at `count` adjacent masks, [B, N, V]."""
        rows = torch.arange(len(batch.mask_position), device=batch.mask_position.device)[:, None]
        columns = batch.mask_position[:, None] + torch.arange(count, device=batch.mask_position.device)
        return self.lm_head(self.hidden_states(batch, prompt)[rows, columns]).float().log_softmax(dim=2)

    def _filled_mask_scores(
        self, batch: EncodedBatch, targets_WN: Tensor, decoding: Decoding, prompt: SoftInput | None
    ) -> Tensor:
        """Returns log-probabilities [B, W] of filling N masks with each of the targets, one mask after the other."""
        num_words, count = targets_WN.shape
        indices_N = torch.arange(count, device=targets_WN.device)
        log_BWN = self._mask_log_probabilities(batch, count, prompt)[:, indices_N, targets_WN]
        if decoding == "parallel" or count == 1:
            return log_BWN.sum(dim=2)
        log_RN = log_BWN.flatten(0, 1)
        targets_RN = targets_WN.repeat(len(batch.mask_position), 1)
        rows = batch.repeated(num_words)
        row_prompts = prompt and prompt.repeated(num_words)
        is_open_RN = torch.ones_like(log_RN, dtype=torch.bool)
        total_R = torch.zeros_like(log_RN[:, 0])
        for turn in range(count):
            open_log_RN = log_RN.masked_fill(~is_open_RN, -torch.inf)
            in_turn_R1 = torch.full_like(targets_RN[:, :1], turn)
            chosen_R1 = in_turn_R1 if decoding == "ltr" else open_log_RN.argmax(dim=1, keepdim=True)
            total_R += log_RN.gather(1, chosen_R1)[:, 0]
            is_open_RN.scatter_(1, chosen_R1, value=False)
            rows.input_ids.scatter_(1, rows.mask_position[:, None] + chosen_R1, targets_RN.gather(1, chosen_R1))
            if turn + 1 < count:
                needed_RN = is_open_RN & (indices_N == turn + 1) if decoding == "ltr" else is_open_RN
                log_M = self._target_log_probabilities(rows, needed_RN, targets_RN[needed_RN], row_prompts)
                log_RN = log_RN.masked_scatter(needed_RN, log_M)
        return total_R.view(-1, num_words)

    def _target_log_probabilities(
        self, batch: EncodedBatch, needed_RN: Tensor, targets_M: Tensor, prompt: SoftInput | None
    ) -> Tensor:
        """Returns log-probabilities [M] of the targets at the M masks that `needed_RN` marks, in its order."""
        rows_M, indices_M = needed_RN.nonzero(as_tuple=True)
        states_MD = self.hidden_states(batch, prompt)[rows_M, batch.mask_position[rows_M] + indices_M]
        return -F.cross_entropy(self.lm_head(states_MD).float(), targets_M, reduction="none")

    def token_keys_and_values(self, tokens_BL: Tensor) -> list[KeysAndValues]:
        with prefixed(self.model, None) as state:
            self._body()(input_ids=tokens_BL, attention_mask=torch.ones_like(tokens_BL))
        return state.text

    @contextmanager
    def _inputs(self, batch: EncodedBatch, prompt: SoftInput | None) -> Iterator[dict[str, Any]]:
        prompt = prompt or SoftInput()
        arguments = self._text_inputs(batch, prompt)
        arguments |= self._position_ids(widen(batch.attention_mask, prompt.num_before), prompt)
        size = len(batch.mask_position)
        if getattr(self.model.config, "type_vocab_size", 0) > 1 and self._takes("token_type_ids"):
            zeros = torch.zeros(size, prompt.num_before, dtype=torch.long, device=batch.mask_position.device)
            arguments["token_type_ids"] = torch.cat([zeros, batch.token_type_ids], dim=1)
        if prompt.layers is None:
            yield arguments
            return
        dtype = self.model.get_input_embeddings().weight.dtype
        with prefixed(self.model, chosen_keys_and_values(prompt.layers, size, dtype, prompt.lengths)):
            yield arguments
