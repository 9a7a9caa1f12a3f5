"""A valid recipe with its data and a backbone without weights, for tests that change one thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pipelines.schema.sections.prompts import PptSection

CHOICE = (
    "task.options={rotten: text, fresh: text}",
    'task.patterns={review: "{text} {option}{mask}"}',
    "task.verbalizer={right: [good], wrong: [bad]}",
    "prompts=null",
    "pet.patterns=[review]",
)
"""Overrides that make the task of the recipe `smoke` a multiple choice."""
RECIPE = """\
name: films
task:
  name: films
  labels: [rotten, fresh]
  patterns:
    review: "{text} It was {mask}."
    verdict: "{mask}: {text}"
  verbalizer:
    rotten: {review: [bad], verdict: [dull]}
    fresh: [good, great]
data:
  pool:
    asset: ROOT/films.jsonl
    fields: {text: text}
    label: category
  shots: 4
  unlabeled_size: 10
  test_size: 10
backbone:
  asset: ROOT/backbone
  max_length: 32
students:
  small:
    asset: ROOT/backbone
    max_length: 32
pet:
  training: {learning_rate: 0.001, epochs: 6}
distill:
  training: {learning_rate: 0.001, steps: 20}
prompts:
  methods: {random: {num_virtual_tokens: 8, init: {kind: normal}}}
  tasks:
    - pattern: review
    - pattern: kind
      task:
        name: kinds
        labels: [plot, quote]
        patterns: {kind: "{text} is a {mask}"}
        verbalizer: {plot: [story], quote: [review]}
      data:
        pool: {asset: ROOT/kinds.jsonl, label: kind}
        shots: 2
        unlabeled_size: 0
        test_size: 5
  training: {learning_rate: 0.01, steps: 5}
"""

VOCABULARY = ("bad", "dull", "good", "great", "story", "review", "yes", "no", "maybe", "un", "##watch", "##able")
CAUSAL = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
"""Config of a causal backbone."""


def write_recipe(folder: Path) -> Path:
    """Writes the recipe, its data, and config and vocabulary of its backbone. Returns the path of the recipe."""
    films = [{"text": f"film number {n}", "category": ("rotten", "fresh")[n % 2]} for n in range(40)]
    kinds = [{"text": f"text number {n}", "kind": ("plot", "quote")[n % 2]} for n in range(20)]
    for name, rows in (("films", films), ("kinds", kinds)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    backbone = folder / "backbone"
    backbone.mkdir()
    shape = {"architectures": ["BertForMaskedLM"], "model_type": "bert", "max_position_embeddings": 64}
    (backbone / "config.json").write_text(json.dumps(shape))
    pieces = ("[UNK]", "[MASK]", *VOCABULARY)
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(backbone / "tokenizer.json"))
    path = folder / "films.yaml"
    path.write_text(RECIPE.replace("ROOT", str(folder)))
    return path


def ppt_section(tmp_path: Path, lines: list[str], **settings: Any) -> PptSection:
    """Returns a section `ppt` whose corpus has these lines."""
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    corpus = {"source": {"asset": str(path)}, "max_sentence_words": 8}
    return PptSection.model_validate({"corpus": corpus, "training": {"learning_rate": 0.1, "steps": 1}} | settings)
