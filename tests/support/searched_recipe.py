"""A recipe that tunes a prompt of a small model, for tests of the search."""

from __future__ import annotations

from pathlib import Path

from tests.support.small_models import film_examples, write_lines

RECIPE = """\
name: films
task:
  name: films
  labels: [rotten, fresh]
  patterns: {review: "Review: {text} It was {mask}."}
  verbalizer: {rotten: [bad, terrible], fresh: [good, great]}
data:
  pool: {asset: films.jsonl, fields: {text: text}, label: label}
  shots: 6
  unlabeled_size: 0
  test_size: 8
backbone: {asset: BACKBONE, max_length: 32, precision: fp32}
students: {words: {kind: tfidf}}
baseline: {}
prompts:
  methods: {tuning: {num_virtual_tokens: 5}}
  tasks: [{pattern: review}]
  training: {learning_rate: 0.0001, batch_size: 4, steps: 30}
"""


def write_searched_recipe(folder: Path, backbone: Path) -> Path:
    """Writes the recipe and its data. Returns the path of the recipe."""
    rows = [{"text": item.fields["text"], "label": item.label} for item in film_examples(40)]
    write_lines(folder / "films.jsonl", rows)
    path = folder / "films.yaml"
    path.write_text(RECIPE.replace("BACKBONE", str(backbone)))
    return path
