"""Text in front of the mask that a seq2seq model writes (LM-BFF, Gao et al., ACL 2021, section 5.2).

Each labeled example becomes a text with a gap before the word of its label: "A joy to see. <X> great". T5 was trained
to fill such gaps. Beam search finds the texts with the largest sum, over all examples, of the log-likelihoods that the
model gives them, so they suit the examples of every label. Letters in names of tensors: W texts in the beam, T tokens
that they have, A tokens that they may have, V vocabulary.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.loader import borrow_backbone
from stages.common.models.backbones.seq2seq import Seq2SeqBackbone
from stages.common.patterns.encoding import Encoded, Encoder
from stages.common.patterns.sentinels import SECOND_SENTINELS
from stages.common.patterns.syntax import Pattern
from stages.common.patterns.verbalizers import ANCHORS
from stages.common.protocols import Engine, Recorder
from stages.common.training.cross_validation import Indices
from stages.pet.pattern_search.config import GenerateConfig, PatternSearchConfig
from stages.pet.pattern_search.templates import Template, space_before


class Span(NamedTuple):
    """Tokens that fill the gap, and the sum over examples of their log-likelihoods and that of the end."""

    score: float
    tokens: tuple[int, ...]


@contextmanager
def borrow_generator(config: PatternSearchConfig, engine: Engine) -> Iterator[Seq2SeqBackbone]:
    """Yields the model that fills gaps.

    Raises:
        InputError: it is not a seq2seq model.
    """
    assert config.generate is not None
    model = config.generate.backbone or config.backbone
    with borrow_backbone(model, engine) as backbone:
        if not isinstance(backbone, Seq2SeqBackbone):
            raise InputError(
                f"only a seq2seq model such as T5 fills gaps; {model.asset.partition('#')[0]} is {backbone.family}.",
                "Set pattern_search.generate.backbone to a seq2seq model, or remove generate.",
                key="pattern_search.generate",
            )
        yield backbone


def generated_patterns(
    config: PatternSearchConfig,
    start: Template,
    backbone: Seq2SeqBackbone,
    examples: Sequence[Example],
    rows: Indices,
    recorder: Recorder,
    engine: Engine,
) -> list[str]:
    """Returns the patterns whose text in front of the mask the model writes, the most likely first.

    Args:
        config: Task and settings.
        start: The pattern, whose text in front of the mask is replaced.
        backbone: Fills the gap.
        examples: Labeled examples.
        rows: Those that decide.
        recorder: Gets the progress.
        engine: Makes all workers continue the same texts.
    """
    settings = config.generate
    assert settings is not None
    encoded = gap_texts(config, start, backbone, [examples[row] for row in rows])

    def log_likelihoods(tokens_WT: Tensor) -> Tensor:
        recorder.log_progress(tokens_WT.shape[1], settings.max_tokens, phase="generated tokens")
        summed_WV = next_token_log_likelihoods(backbone, encoded, tokens_WT)
        all_WV: Tensor = engine.all_reduce_sum(summed_WV) / engine.world_size
        return all_WV

    end = end_of_gap(backbone.tokenizer)
    spans = beam_search(log_likelihoods, text_tokens(backbone.tokenizer), end, settings)
    texts = [gap_text(span.tokens, backbone.tokenizer) for span in spans]
    index = start.mask_gap
    return list(dict.fromkeys(start.with_gap(index, text.lstrip() if index == 0 else text).text for text in texts))


def gap_texts(
    config: PatternSearchConfig, start: Template, backbone: Seq2SeqBackbone, examples: Sequence[Example]
) -> list[Encoded]:
    """Returns each example under the pattern, with the gap as the mask and the word of its label after it."""
    words = config.task.words(config.pattern)
    assert config.generate is not None
    max_length = (config.generate.backbone or config.backbone).max_length
    encoders = {}
    for label in config.task.labels:
        word = words[label][0].strip()
        filled = start.with_gap(start.mask_gap, "").with_word(space_before(word) + word)
        encoders[label] = Encoder(
            Pattern.parse(config.pattern, filled), backbone.tokenizer, backbone.family, max_length,
            config.task.truncation,
        )  # fmt: skip
    return [encoders[str(item.label)](item) for item in examples]


def next_token_log_likelihoods(backbone: Seq2SeqBackbone, encoded: Sequence[Encoded], tokens_WT: Tensor) -> Tensor:
    """Returns the log-likelihood of every token after each text of the beam, summed over examples, [W, V] float64."""
    summed_WV: Tensor | None = None
    with backbone.evaluation():
        for item in encoded:
            logits_WTV = backbone.decoder_logits(backbone.batch([item]), tokens_WT.to(backbone.device))
            log_WV = logits_WTV[:, -1].double().log_softmax(dim=1).cpu()
            summed_WV = log_WV if summed_WV is None else summed_WV + log_WV
    assert summed_WV is not None
    return summed_WV


def beam_search(
    log_likelihoods: Callable[[Tensor], Tensor], allowed: Sequence[int], end: int, settings: GenerateConfig
) -> list[Span]:
    """Returns the finished texts with the largest scores, at most `beam_size`, the best first.

    Args:
        log_likelihoods: Maps the texts [W, T] to the log-likelihoods [W, V] of the token after each of them.
        allowed: Tokens that a text may have.
        end: The token that ends a text.
        settings: Size of the beam, and length of the texts.
    """
    live, finished = [Span(0.0, ())], list[Span]()
    columns = torch.tensor(sorted(allowed))
    for length in range(settings.max_tokens + 1):
        tokens_WT = torch.tensor([span.tokens for span in live], dtype=torch.long).view(len(live), length)
        scores_WV = log_likelihoods(tokens_WT)
        finished += [Span(span.score + float(row[end]), span.tokens) for span, row in zip(live, scores_WV, strict=True)]
        finished = heapq.nlargest(settings.beam_size, finished)
        if length == settings.max_tokens:
            break
        totals_WA = scores_WV[:, columns] + torch.tensor([span.score for span in live], dtype=torch.float64)[:, None]
        best = totals_WA.flatten().topk(min(settings.beam_size, totals_WA.numel()))
        live = [
            Span(score, (*live[number // len(columns)].tokens, int(columns[number % len(columns)])))
            for score, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        if len(finished) == settings.beam_size and live[0].score <= finished[-1].score:
            break  # scores only get lower
    return finished


def end_of_gap(tokenizer: Any) -> int:
    """Returns the id of the second sentinel, which ends the text in the gap of the first one.

    Raises:
        InputError: the tokenizer has none.
    """
    for sentinel in SECOND_SENTINELS:
        number = tokenizer.convert_tokens_to_ids(sentinel)
        if number is not None and number != tokenizer.unk_token_id:
            return int(number)
    raise InputError(
        f"the tokenizer of the generating model has no {SECOND_SENTINELS[0]}, which ends the text in a gap.",
        "Use a T5 with its own tokenizer.",
        key="pattern_search.generate",
    )


def text_tokens(tokenizer: Any) -> list[int]:
    """Returns the ids of the tokens that are text: no special tokens and no sentinels."""
    special = set(tokenizer.all_special_ids)
    return sorted(
        number
        for token, number in tokenizer.get_vocab().items()
        if number not in special and "<extra_id_" not in token and tokenizer.decode([number]).isprintable()
    )


def gap_text(tokens: Sequence[int], tokenizer: Any) -> str:
    """Returns the text of tokens in a gap, with the space that separates it from what is before."""
    anchor = tokenizer(ANCHORS[0], add_special_tokens=False)["input_ids"]
    before, full = tokenizer.decode(anchor), tokenizer.decode([*anchor, *tokens])
    return str(full[len(before) :].rstrip())
