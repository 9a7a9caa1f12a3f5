"""Scores label words, and turns the scores of words into the score of their label.

The `label_score` of the task is one of

    mean_logit        the mean raw logit of its words at the mask, as in PET (Schick & Schütze, EACL 2021); if a word of
                      the pattern has several tokens, the log-likelihoods of all words are used instead
    sum_probability   log of the sum of its words' probabilities
    log_likelihood    the mean log-likelihood of its words

Log-likelihoods are sums over the tokens of a word, as in PET's second paper (Schick & Schütze, NAACL 2021): a longer
word is less likely. Letters in names of tensors: B texts, D hidden size, W words, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.causal import CausalBackbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.patterns.config import Decoding
from stages.common.patterns.encoding import Encoded
from stages.common.patterns.verbalizers import Verbalizer, Word


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
        likelihood: If True, returns log-likelihoods instead of raw logits. Words of several tokens, and causal models
            with text after the mask, always have log-likelihoods.
        decoding: Order in which a masked model fills the masks of a word of several tokens.
        prompt: The soft prompt, if any.
        training: If True, runs one pass with fixed masks, through which gradients flow.

    Returns:
        [B, W] float32: raw logits, or natural logarithms of probabilities, summed over the tokens.
    """
    if any(len(word) > 1 for word in words) or any(item.suffix for item in encoded):
        return backbone.multi_token_scores(encoded, words, decoding=decoding, prompt=prompt, training=training)
    batch = backbone.batch(encoded, prompt, pad_to_multiple=not training)
    ids = [word[0] for word in words]
    if likelihood:
        return backbone.vocabulary_logits(batch, prompt).log_softmax(dim=1)[:, ids]
    return backbone.word_logits(batch, ids, prompt)


def next_token_scores(
    backbone: CausalBackbone, verbalizer: Verbalizer, hidden_BD: Tensor, *, likelihood: bool
) -> Tensor:
    """Returns the scores of single-token label words, [B, W], as `word_scores` does.

    Args:
        backbone: The language model.
        verbalizer: The label words.
        hidden_BD: The last hidden state of each text, from which the next token is predicted.
        likelihood: If True, returns log-likelihoods instead of raw logits.
    """
    ids = [word[0] for word in verbalizer.flat]
    if likelihood:
        return backbone.lm_head(hidden_BD).float().log_softmax(dim=1)[:, ids]
    return backbone.word_columns(hidden_BD, ids)


def label_scores(verbalizer: Verbalizer, scores_BW: Tensor) -> Tensor:
    """Returns the score of each label, [B, C].

    Args:
        verbalizer: The label words.
        scores_BW: Raw logits or log-likelihoods of `verbalizer.flat`.
    """
    groups = torch.split(scores_BW, [len(words) for words in verbalizer.words], dim=1)
    if verbalizer.score == "sum_probability":
        return torch.stack([group.logsumexp(dim=1) for group in groups], dim=1)
    return torch.stack([group.mean(dim=1) for group in groups], dim=1)
