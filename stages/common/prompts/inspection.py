"""Inspects a soft prompt: the norms of its vectors, the words that they resemble, and the weights of a mixture.

A vector that is far longer than the embedding of any word, or that resembles no word, is not an error: trained vectors
often leave the region of the words (Lester et al., EMNLP 2021, section 6.2). The figure shows if training changed them
at all. Letters in names of tensors: N vectors of the prompt, D embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common import figures
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.partitioned import gathered
from stages.common.patterns.encoding import Encoded
from stages.common.prompts.soft_prompt import Prompt
from stages.common.prompts.text_prompts import PromptMixture
from stages.common.protocols import Recorder

NUM_WORDS = 5
"""Words that are listed per vector."""
MAX_TEXTS, BATCH = 500, 16
"""Texts whose mixtures are recorded, and texts that are read at a time."""
CHUNK = 16384
"""Rows of the vocabulary that are converted to float32 at a time, to save memory."""


def log_inspection(prompt: Prompt | None, backbone: Backbone, recorder: Recorder) -> None:
    """Records the norms of the vectors and, for input vectors, the words nearest to each.

    Args:
        prompt: The trained prompt. None does nothing, nor does a prompt that depends on the text.
        backbone: The frozen model. All workers must call this, because its weights may be spread over them.
        recorder: Gets the figure `prompt_norms` and the table `nearest_words`.
    """
    if prompt is None or prompt.reads_text:
        return
    vectors_ND = prompt.vectors.detach().float().cpu()
    mean_norm = None
    if prompt.position != "layers":
        nearest = nearest_words(vectors_ND, backbone)
        mean_norm = nearest.mean_norm
        recorder.log_table("nearest_words", nearest.rows)
    recorder.log_figure("prompt_norms", figures.norms(vectors_ND.norm(dim=1).tolist(), mean_norm))


def log_mixture(prompt: Prompt | None, texts: Sequence[Encoded], sources: Sequence[str], recorder: Recorder) -> None:
    """Records the weights that a mixture of prompts gives to each of them, over the first texts.

    Args:
        prompt: The trained prompt. Nothing is recorded if it mixes no others.
        texts: Encoded texts.
        sources: [S] names of the source prompts.
        recorder: Gets the table `mixture`: mean, minimum and maximum weight of each source, and of its own vectors.
    """
    if prompt is None or prompt.reader is None or not isinstance(prompt.table, PromptMixture):
        return
    with torch.no_grad():
        batches = [texts[start : start + BATCH] for start in range(0, min(len(texts), MAX_TEXTS), BATCH)]
        weights_nS = torch.cat([prompt.table.weights(prompt.reader(batch)).cpu() for batch in batches])
    rows = [
        {
            "prompt": name,
            "mean weight": round(float(weights_n.mean()), 4),
            "lowest": round(float(weights_n.min()), 4),
            "highest": round(float(weights_n.max()), 4),
        }
        for name, weights_n in zip([*sources, "its own"], weights_nS.T, strict=True)
    ]
    recorder.log_table("mixture", rows)


class NearestWords(NamedTuple):
    """`rows`: per vector its norm, the nearest words and their cosines; `mean_norm`: that of the whole vocabulary."""

    rows: list[dict[str, Any]]
    mean_norm: float


def nearest_words(vectors_ND: Tensor, backbone: Backbone) -> NearestWords:
    """Returns the words of the vocabulary with the largest cosine similarity, the nearest first.

    Args:
        vectors_ND: float32, on the CPU.
        backbone: The model with the input embeddings.
    """
    cosines_N5 = torch.full((len(vectors_ND), 0), 0.0)
    ids_N5 = torch.zeros((len(vectors_ND), 0), dtype=torch.long)
    norm_sum = 0.0
    directions_ND = F.normalize(vectors_ND, dim=1)
    with torch.no_grad(), gathered(backbone.model.get_input_embeddings().weight) as table:
        for start in range(0, len(table), CHUNK):
            part = table.detach()[start : start + CHUNK].float().cpu()
            norms = part.norm(dim=1, keepdim=True)
            norm_sum += float(norms.sum())
            candidates = torch.cat([cosines_N5, directions_ND @ (part / norms.clamp_min(1e-12)).T], dim=1)
            cosines_N5, indices = candidates.topk(min(NUM_WORDS, candidates.shape[1]), dim=1)
            part_ids = torch.arange(start, start + len(part)).expand(len(vectors_ND), -1)
            ids_N5 = torch.cat([ids_N5, part_ids], dim=1).gather(1, indices)
        num_words = len(table)
    rows = []
    for number, vector in enumerate(vectors_ND):
        row: dict[str, Any] = {"vector": number + 1, "norm": round(float(vector.norm()), 4)}
        for rank in range(ids_N5.shape[1]):
            row[f"word {rank + 1}"] = _word(int(ids_N5[number, rank]), backbone.tokenizer)
            row[f"cosine {rank + 1}"] = round(float(cosines_N5[number, rank]), 4)
        rows.append(row)
    return NearestWords(rows, norm_sum / num_words)


def _word(token: int, tokenizer: Any) -> str:
    """Returns the token as text; if it is not valid text, such as half a letter, its name or number."""
    text = str(tokenizer.decode([token]))
    if text.strip() and "\ufffd" not in text:
        return text
    name = tokenizer.convert_ids_to_tokens(token)
    return str(name) if name is not None else f"#{token}"
