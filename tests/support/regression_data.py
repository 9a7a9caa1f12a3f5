"""A small regression task, from the share of kind words in a text, and overrides of a recipe with it."""

from __future__ import annotations

import json
from pathlib import Path

from stages.common.seeds import python_rng
from stages.regression.config import RegressionTask
from stages.regression.examples import RegressionExample
from tests.support.token_level_data import PRAISE

PATTERNS = {
    "llama": "Review: {text}\nThe film is{mask}",
    "gpt2": "Review: {text}\nThe film is{mask}",
    "bert": "{text} The film is {mask}.",
    "roberta": "{text} The film is {mask}.",
    "t5": "{text} The film is {mask}.",
}
UNKIND = ("dull", "bad")
METHODS = "prompts.methods={v2: {method: p_tuning_v2, num_virtual_tokens: 3}, ppt: {init: ppt}}"


def stars_task(name: str) -> RegressionTask:
    """Returns the task of a family: stars from 1 to 5."""
    return RegressionTask(name="stars", pattern=PATTERNS[name], words=("bad", "good"), range=(1, 5))


def reviews(count: int, seed: int) -> list[RegressionExample]:
    """Returns texts of four words; each kind word among them is worth one star more."""
    rng = python_rng(seed, "stars")
    examples = []
    for number in range(count):
        num_kind = rng.randrange(5)
        words = [rng.choice(PRAISE) for _ in range(num_kind)] + [rng.choice(UNKIND) for _ in range(4 - num_kind)]
        rng.shuffle(words)
        examples.append(RegressionExample(f"r{number}", {"text": " ".join(words)}, 1.0 + num_kind))
    return examples


def regression_overrides(folder: Path, **settings: str) -> tuple[str, ...]:
    """Writes data to `folder`. Returns overrides: methods, and the task with other settings, if given."""
    rows = [{"review": item.fields["text"], "stars": item.value} for item in reviews(12, 0)]
    (folder / "stars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"{{asset: {folder / 'stars.jsonl'}, fields: {{text: review}}, label: stars}}"
    values = {"pattern": f"'{PATTERNS['llama'].encode('unicode_escape').decode()}'", "words": "[bad, good]"}
    values |= {"range": "[1, 5]", "data": f"{{train: {source}, test: {source}, train_size: 8}}"} | settings
    values["pattern"] = values["pattern"].replace("'", '"')
    task = ", ".join(f"{key}: {value}" for key, value in values.items())
    return (METHODS, f"prompts.regression={{stars: {{{task}}}}}")
