"""Scores label words of any number of tokens, for each family of backbones, in batches.

A masked model with words of several tokens follows PET's second paper (Schick & Schütze, NAACL 2021, section 3). In
training, one pass has as many masks as the longest word has tokens. In evaluation, each word has its own number of
masks, which are filled one after the other: `default` the most confident first, `ltr` from left to right, `parallel`
all at once. The original scores one text at a time; here every text and word of a batch is a row of one forward pass.

The `label_score` of the task turns the scores of words into the score of their label:

    mean_logit        the mean raw logit of its words at the mask, as in PET (Schick & Schütze, EACL 2021); if a word of
                      the pattern has several tokens, the log-likelihoods of all words are used instead
    sum_probability   log of the sum of its words' probabilities
    log_likelihood    the mean log-likelihood of its words

Log-likelihoods are sums over the tokens of a word, as in PET's second paper: a longer word is less likely.

Letters in names of tensors: B texts, W words, N tokens of a word, R = B * W rows, L length, D hidden size, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.batching import EncodedBatch
from stages.common.patterns.config import Decoding
from stages.common.patterns.encoding import Encoded
from stages.common.patterns.verbalizers import Verbalizer

Word = tuple[int, ...]
"""Token ids of a label word."""
HEAD_ROWS = 512
"""Positions that go through the LM head at once: a row of logits is as wide as the vocabulary."""


def word_scores(
    backbone: Backbone,
    encoded: Sequence[Encoded],
    words: Sequence[Word],
    *,
    likelihood: bool,
    decoding: Decoding = "default",
    prompt: SoftInput | None = None,
    training: bool = False,
) -> Tensor:
    """Scores words in texts.

    Args:
        backbone: The language model.
        encoded: [B] texts with one mask each.
        words: [W] words.
        likelihood: Log-likelihoods rather than raw logits. Words of several tokens, and causal models with text behind
            the mask, have only these.
        decoding: Order of the masks, for masked models and words of several tokens.
        prompt: What a soft prompt puts in; None: nothing.
        training: One pass with fixed masks, through which gradients flow.

    Returns:
        [B, W] float32: raw logits, or natural logarithms of probabilities, summed over the tokens.
    """
    is_single = all(len(word) == 1 for word in words)
    if is_single and not any(item.suffix for item in encoded):
        batch = backbone.batch(encoded, prompt, pad_to_multiple=not training)
        return _at_mask(backbone, batch, [word[0] for word in words], likelihood, prompt)
    if backbone.family == "causal":
        return _continued(backbone, encoded, words, prompt)
    if backbone.family == "seq2seq":
        return _decoded(backbone, encoded, words, prompt)
    if training:
        return _fixed_masks(backbone, encoded, words, prompt)
    return _filled(backbone, encoded, words, decoding, prompt)


def _at_mask(
    backbone: Backbone, batch: EncodedBatch, ids: list[int], likelihood: bool, prompt: SoftInput | None
) -> Tensor:
    if not likelihood:
        return backbone.word_logits(batch, ids, prompt)
    return backbone.vocabulary_logits(batch, prompt).log_softmax(dim=1)[:, ids]


def _fixed_masks(
    backbone: Backbone, encoded: Sequence[Encoded], words: Sequence[Word], prompt: SoftInput | None
) -> Tensor:
    """[B, W]: a word of N tokens is read from the first N of as many masks as the longest word needs."""

    longest = max(len(word) for word in words)
    log_BNV = _at_masks(backbone, backbone.batch([item.with_masks(longest) for item in encoded]), longest, prompt)
    places = [torch.arange(len(word), device=log_BNV.device) for word in words]
    return torch.stack([log_BNV[:, place, list(word)].sum(dim=1) for place, word in zip(places, words, strict=True)], 1)


def _at_masks(backbone: Backbone, batch: EncodedBatch, count: int, prompt: SoftInput | None) -> Tensor:
    """[B, N, V] log-probabilities at `count` masks in a row."""

    rows = torch.arange(len(batch.mask_position), device=batch.mask_position.device)[:, None]
    columns = batch.mask_position[:, None] + torch.arange(count, device=batch.mask_position.device)
    return backbone.lm_head(backbone.hidden_states(batch, prompt)[rows, columns]).float().log_softmax(dim=2)


def _filled(
    backbone: Backbone, encoded: Sequence[Encoded], words: Sequence[Word], decoding: Decoding, prompt: SoftInput | None
) -> Tensor:
    """[B, W]: words of the same number of tokens share their first pass."""

    scores = torch.zeros(len(encoded), len(words), device=backbone.device)
    for count in sorted({len(word) for word in words}):
        numbers = [number for number, word in enumerate(words) if len(word) == count]
        batch = backbone.batch([item.with_masks(count) for item in encoded])
        targets_WN = torch.tensor([words[number] for number in numbers], device=backbone.device)
        scores[:, numbers] = _fill(backbone, batch, targets_WN, decoding, prompt)
    return scores


def _fill(
    backbone: Backbone, batch: EncodedBatch, targets: Tensor, decoding: Decoding, prompt: SoftInput | None
) -> Tensor:
    """[B, W] log-probabilities of filling N masks with each of the [W, N] targets, mask by mask."""

    num_words, count = targets.shape
    places = torch.arange(count, device=targets.device)
    log_BWN = _at_masks(backbone, batch, count, prompt)[:, places, targets]
    if decoding == "parallel" or count == 1:
        return log_BWN.sum(dim=2)
    log_RN = log_BWN.flatten(0, 1)
    targets_RN = targets.repeat(len(batch.mask_position), 1)
    rows = batch.repeated(num_words)
    prompts = prompt and prompt.repeated(num_words)
    is_open_RN = torch.ones_like(log_RN, dtype=torch.bool)
    total_R = torch.zeros_like(log_RN[:, 0])
    for turn in range(count):
        sure_RN = log_RN.masked_fill(~is_open_RN, -torch.inf)
        in_turn_R1 = torch.full_like(targets_RN[:, :1], turn)
        chosen_R1 = in_turn_R1 if decoding == "ltr" else sure_RN.argmax(dim=1, keepdim=True)
        total_R += log_RN.gather(1, chosen_R1)[:, 0]
        is_open_RN.scatter_(1, chosen_R1, value=False)
        rows.input_ids.scatter_(1, rows.mask_position[:, None] + chosen_R1, targets_RN.gather(1, chosen_R1))
        if turn + 1 < count:
            asked_RN = is_open_RN & (places == turn + 1) if decoding == "ltr" else is_open_RN
            log_M = _at_places(backbone, rows, asked_RN, targets_RN[asked_RN], prompts)
            log_RN = log_RN.masked_scatter(asked_RN, log_M)
    return total_R.view(-1, num_words)


def _at_places(
    backbone: Backbone, batch: EncodedBatch, asked: Tensor, targets: Tensor, prompt: SoftInput | None
) -> Tensor:
    """[M] log-probabilities of the [M] targets at the masks that [R, N] `asked` marks, in its order."""

    rows_M, places_M = asked.nonzero(as_tuple=True)
    states_MD = backbone.hidden_states(batch, prompt)[rows_M, batch.mask_position[rows_M] + places_M]
    return -F.cross_entropy(backbone.lm_head(states_MD).float(), targets, reduction="none")


def _continued(
    backbone: Backbone, encoded: Sequence[Encoded], words: Sequence[Word], prompt: SoftInput | None
) -> Tensor:
    """[B, W] log-likelihood of the word and of the text behind it, given the text before it."""

    endings = [[*word, *item.suffix] for item in encoded for word in words]
    texts = [item for item in encoded for _ in words]
    whole = [
        Encoded(
            text.ids + tuple(ending),
            text.token_type_ids + (0,) * len(ending),
            len(text.ids) + len(ending) - 1,
            soft_positions=text.soft_positions,
        )
        for text, ending in zip(texts, endings, strict=True)
    ]
    prompt = prompt and prompt.repeated(len(words))
    batch = backbone.batch(whole)
    longest = max(len(ending) for ending in endings)
    lengths_R1 = torch.tensor([len(ending) for ending in endings], device=backbone.device)[:, None]
    # texts end together, so the last `longest` places hold every ending; each place predicts the next one
    is_ending_RK = torch.arange(longest, 0, -1, device=backbone.device)[None] <= lengths_R1
    states_MD = backbone.hidden_states(batch, prompt)[:, -longest - 1 : -1][is_ending_RK]
    targets_M = batch.input_ids[:, -longest:][is_ending_RK]
    # workers that keep a part of the head each have to come to it equally often, whatever their texts
    rows = max(1, len(states_MD)) if backbone.is_partitioned else HEAD_ROWS
    losses = [
        F.cross_entropy(backbone.lm_head(states).float(), targets, reduction="none")
        for states, targets in zip(states_MD.split(rows), targets_M.split(rows), strict=True)
    ]
    log_RK = torch.zeros(is_ending_RK.shape, device=backbone.device).masked_scatter(is_ending_RK, -torch.cat(losses))
    return log_RK.sum(dim=1).view(len(encoded), len(words))


def _decoded(backbone: Backbone, encoded: Sequence[Encoded], words: Sequence[Word], prompt: SoftInput | None) -> Tensor:
    """[B, W] log-likelihood of the word behind the sentinel."""

    longest = max(len(word) for word in words)
    written_WT = torch.full((len(words), longest), backbone.pad_id)
    is_token_WT = torch.zeros(len(words), longest, dtype=torch.bool)
    for number, word in enumerate(words):
        written_WT[number, : len(word)] = torch.tensor(word)
        is_token_WT[number, : len(word)] = True
    written_RT = written_WT.repeat(len(encoded), 1).to(backbone.device)
    logits_RTV = backbone.decoder_logits(backbone.batch(encoded), written_RT[:, :-1], prompt)
    log_RT = logits_RTV.log_softmax(dim=2).gather(2, written_RT[:, :, None])[:, :, 0]
    is_token_RT = is_token_WT.repeat(len(encoded), 1).to(backbone.device)
    return (log_RT * is_token_RT).sum(dim=1).view(len(encoded), len(words))


def label_scores(verbalizer: Verbalizer, word_scores: Tensor) -> Tensor:
    """Scores of labels.

    Args:
        verbalizer: The label words.
        word_scores: [B, W], raw logits or log-likelihoods of `verbalizer.flat`.

    Returns:
        [B, C], one score for each label.
    """

    groups = torch.split(word_scores, [len(words) for words in verbalizer.words], dim=1)
    if verbalizer.score == "sum_probability":
        return torch.stack([group.logsumexp(dim=1) for group in groups], dim=1)
    return torch.stack([group.mean(dim=1) for group in groups], dim=1)
