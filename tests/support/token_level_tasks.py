"""Overrides of the smoke recipe with a token classification and a question answering task."""

from __future__ import annotations

import json
from pathlib import Path

METHODS = "prompts.methods={v2: {method: p_tuning_v2, num_virtual_tokens: 3}, ppt: {init: ppt}}"
FILMS = ["the film was good", "a dull plot", "the film was bad", "a warm story about the film"]


def token_level_overrides(folder: Path) -> tuple[str, ...]:
    """Writes data of both tasks to `folder`. Returns overrides: methods, token classification, question answering."""
    tagged = [
        {"tokens": text.split(), "tags": ["B-WORK" if word == "film" else "O" for word in text.split()]}
        for text in FILMS * 4
    ]
    asked = [
        {"question": "What is it?", "context": text, "answers": {"text": [text[-4:]], "answer_start": [len(text) - 4]}}
        for text in FILMS * 4
    ]
    for name, rows in (("tagged", tagged), ("asked", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokens = f"{{asset: {folder / 'tagged.jsonl'}, fields: {{words: tokens}}, label: tags}}"
    spans = f"{{asset: {folder / 'asked.jsonl'}, fields: {{question: question, context: context}}, label: answers}}"
    works = f"{{labels: [O, B-WORK], data: {{train: {tokens}, test: {tokens}, train_size: 8}}}}"
    return (
        METHODS,
        f"prompts.token_classification={{works: {works}}}",
        f"prompts.question_answering={{answers: {{data: {{train: {spans}, test: {spans}}}}}}}",
    )
