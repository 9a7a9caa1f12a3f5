"""Inspects a soft prompt: the norms of its vectors, and the words of the vocabulary that they resemble.

A vector that is far longer than the embedding of any word, or that resembles no word, is not an error: trained vectors
often leave the region of the words (Lester et al., EMNLP 2021, section 6.2). The figure shows if training changed them
at all.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common import figures
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.soft_input import gathered
from stages.common.prompts.soft_prompt import Prompt
from stages.common.protocols import Recorder

NUM_WORDS = 5
CHUNK = 16384
"""Rows of the vocabulary that are compared at a time, so that a large one is never copied to float32 as a whole."""


def log_inspection(prompt: Prompt | None, backbone: Backbone, recorder: Recorder) -> None:
    """Records the norms of the vectors and, of vectors that stand where words stand, the words nearest to each.

    Args:
        prompt: The trained prompt; None: there is nothing to show.
        backbone: The frozen model. Every worker must come here, for it may be spread over them.
        recorder: Gets the picture `prompt_norms` and the table `nearest_words`.
    """

    if prompt is None:
        return
    vectors = prompt.vectors.detach().float().cpu()
    usual = None
    if prompt.position != "layers":
        rows, usual = nearest(vectors, backbone)
        recorder.log_table("nearest_words", rows)
    recorder.log_figure("prompt_norms", figures.norms(vectors.norm(dim=1).tolist(), usual))


def nearest(vectors: Tensor, backbone: Backbone) -> tuple[list[dict[str, Any]], float]:
    """The words of the vocabulary that point in the same direction, and the mean norm of all words.

    Args:
        vectors: [N, D] float32, on the CPU.
        backbone: The model whose input embeddings they stand among.

    Returns:
        A row for each vector, with its norm, the words and their cosines, the nearest first; and the mean norm.
    """

    best = torch.full((len(vectors), 0), 0.0)
    ids = torch.zeros((len(vectors), 0), dtype=torch.long)
    total = 0.0
    directions = F.normalize(vectors, dim=1)
    with torch.no_grad(), gathered(backbone.model.get_input_embeddings().weight) as table:
        for start in range(0, len(table), CHUNK):
            part = table.detach()[start : start + CHUNK].float().cpu()
            lengths = part.norm(dim=1, keepdim=True)
            total += float(lengths.sum())
            cosines = directions @ (part / lengths.clamp_min(1e-12)).T
            best, places = torch.cat([best, cosines], dim=1).topk(min(NUM_WORDS, best.shape[1] + len(part)), dim=1)
            here = torch.arange(start, start + len(part)).expand(len(vectors), -1)
            ids = torch.cat([ids, here], dim=1).gather(1, places)
        size = len(table)
    rows = []
    for number, vector in enumerate(vectors):
        row: dict[str, Any] = {"vector": number + 1, "norm": round(float(vector.norm()), 4)}
        for rank in range(ids.shape[1]):
            row[f"word {rank + 1}"] = _word(int(ids[number, rank]), backbone.tokenizer)
            row[f"cosine {rank + 1}"] = round(float(best[number, rank]), 4)
        rows.append(row)
    return rows, total / size


def _word(token: int, tokenizer: Any) -> str:
    """The token as text; one that is no text by itself, such as half a letter, by its name or its number."""
    text = str(tokenizer.decode([token]))
    if text.strip() and "\ufffd" not in text:
        return text
    name = tokenizer.convert_ids_to_tokens(token)
    return str(name) if name is not None else f"#{token}"
