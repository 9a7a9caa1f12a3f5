"""Paraphrases of the texts of a pattern by seq2seq models (Jiang et al., TACL 2020, https://arxiv.org/abs/1911.12543).

As in the paper, a model translates a text into another language, keeping several translations, and a second model
translates each of them back. Texts are ranked by the probability of the round trip. With one model only, this model
writes the paraphrases itself. The text between two fields or masks is paraphrased on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from stages.common.errors import InputError
from stages.common.models.batching import default_device
from stages.common.models.model_files import check_encoder_folder, check_writes_texts, model_folder
from stages.common.models.tokenizers import load_tokenizer
from stages.common.protocols import Recorder
from stages.pet.pattern_search.config import ParaphraseConfig
from stages.pet.pattern_search.edits import words_of
from stages.pet.pattern_search.templates import Template


class Rewritten(NamedTuple):
    """A text, and its log-likelihood."""

    text: str
    score: float


def paraphrased_patterns(settings: ParaphraseConfig, start: Template, recorder: Recorder) -> list[str]:
    """Returns patterns with one paraphrased text each, the most likely first.

    Raises:
        AssetError: a model is unreachable or unusable.
        InputError: a model is no seq2seq model, or the pattern has no words.
    """
    gaps = {index: gap.strip() for index, gap in enumerate(start.gaps) if index in start.editable and words_of(gap)[0]}
    if not gaps:
        raise InputError(
            "the pattern has no words to paraphrase.",
            "Write some, or remove paraphrase.",
            key="pattern_search.paraphrase",
        )
    rounds = [(settings.model, settings.prefix)]
    if settings.back_translation is not None:
        rounds.append((settings.back_translation, settings.back_prefix))
    found = {index: [Rewritten(text, 0.0)] for index, text in gaps.items()}
    for number, (asset, prefix) in enumerate(rounds):
        recorder.log_progress(number, len(rounds), phase="paraphrases")
        writer = Writer(asset, settings)
        found = {index: writer.rewrite(texts, prefix) for index, texts in found.items()}
        del writer  # before the next model is loaded
    patterns: dict[str, float] = {}
    for index, texts in found.items():
        gap = start.gaps[index]
        before, after = gap[: len(gap) - len(gap.lstrip())], gap[len(gap.rstrip()) :]
        for item in texts:
            text = start.with_gap(index, before + item.text + after).text
            if item.text != gaps[index]:
                patterns[text] = max(item.score, patterns.get(text, -math.inf))
    ranked = sorted(patterns, key=lambda text: -patterns[text])
    return ranked[: settings.num_candidates]


class Writer:
    """A seq2seq model that writes several texts for each text."""

    def __init__(self, asset: str, settings: ParaphraseConfig) -> None:
        folder = model_folder(asset)
        check_encoder_folder(folder)
        check_writes_texts(folder)
        self.model: Any = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        self.model.to(default_device()).eval()
        self.tokenizer = load_tokenizer(folder)
        self.settings = settings

    def rewrite(self, texts: Sequence[Rewritten], prefix: str) -> list[Rewritten]:
        """Returns the most likely texts, with the sum of both log-likelihoods; of equal texts the most likely one."""
        settings = self.settings
        decoding = GenerationConfig(
            num_beams=settings.beam_size,
            num_return_sequences=settings.beam_size,
            max_new_tokens=settings.max_tokens,
            length_penalty=0.0,  # scores are sums
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            pad_token_id=self.model.config.pad_token_id,
            eos_token_id=self.model.config.eos_token_id,
            decoder_start_token_id=self.model.config.decoder_start_token_id,
        )
        best: dict[str, float] = {}
        for item in texts:
            batch = self.tokenizer(prefix + item.text, return_tensors="pt", return_token_type_ids=False)
            with torch.inference_mode():
                output = self.model.generate(**batch.to(self.model.device), generation_config=decoding)
            written = self.tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
            for text, score in zip(written, output.sequences_scores.tolist(), strict=True):
                text = " ".join(text.split())
                if text:
                    best[text] = max(item.score + score, best.get(text, -math.inf))
        ranked = sorted(best, key=lambda text: -best[text])
        return [Rewritten(text, best[text]) for text in ranked[: settings.beam_size**2]]
