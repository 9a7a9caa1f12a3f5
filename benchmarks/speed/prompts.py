"""Measures soft prompts that train in one batch, and a prompt at the end of the pattern over the cached text.

Compares the first with training one prompt after the other, and the second with processing the whole text in every
step. Both use a frozen SmolLM2-135M; the first also uses BERT-tiny, where a pass is mostly overhead, and in a quick run
only that. Prompts train on 64 quotes of critics. The time of one prompt after the other is the time of one prompt
multiplied by their number. Memory is the growth of the highest resident size of the process, compared with one prompt
that has the same number of examples per prompt, and with one prompt that has the same number of examples per step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.speed.timing import (
    Effort,
    film_examples,
    markdown_table,
    median_ratio,
    peak_memory,
    recipe,
    time_in_turns,
)
from stages.common.engine import InProcessEngine
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.models.cloze.multi_task import multi_task_logits
from stages.common.models.cloze.prefix_cache import CachedTexts
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.protocols import NullRecorder
from stages.common.training.batched import TrainingJob, train_batched
from stages.common.training.config import TrainingConfig

NUM_PROMPTS = (1, 4, 16)
BATCH_SIZES = (1, 4)
BATCHED_GOAL, CACHE_GOAL = 2.5, 1.8
TEXT_TOKENS, NUM_VIRTUAL_TOKENS = 64, 20
PROMPT_AT_END = "{text}{soft:20}{mask}"


@dataclass(frozen=True)
class Subject:
    """The backbone of a recipe, with a pattern and label words for it."""

    title: str
    recipe: str
    pattern: str
    words: dict[str, list[str]]


SMOLLM2 = Subject(
    "SmolLM2-135M", "demo", "Review: {text}\nSentiment:{mask}", {"rotten": ["negative"], "fresh": ["positive"]}
)
BERT_TINY = Subject("BERT-tiny", "smoke", "{text} It was {mask}.", {"rotten": ["bad"], "fresh": ["good"]})


def prompts(effort: Effort) -> str:
    """Returns the two tables."""
    return f"{_batched_table(effort)}\n{_cache_table(effort)}"


def _classifier(
    subject: Subject, max_length: int, seed: int, *, backbone: Backbone | None = None, pattern: str = ""
) -> ClozeClassifier:
    config = BackboneConfig(**{**recipe(subject.recipe)["backbone"], "max_length": max_length})
    backbone = backbone or load_backbone(config, frozen=True)
    patterns = {"p": pattern or subject.pattern}
    task = Task(name="films", labels=tuple(subject.words), patterns=patterns, verbalizer=subject.words)
    prompt = new_prompt(PromptConfig(num_virtual_tokens=10), backbone, task.pattern("p"), seed=seed)
    return ClozeClassifier.of(task, "p", backbone, config, prompt)


def _batched_table(effort: Effort) -> str:
    """Examples per second of 1, 4 and 16 prompts in one batch, and of the same prompts one after the other."""
    head = ["trained prompts", "one by one, examples/s", "batched, examples/s", "ratio", "goal"]
    subjects = (BERT_TINY,) if effort.quick else (SMOLLM2, BERT_TINY)
    return markdown_table(head, [row for subject in subjects for row in _subject_rows(subject, effort)])


def _subject_rows(subject: Subject, effort: Effort) -> list[list[str]]:
    first = _classifier(subject, 32, 0)
    classifiers = [
        first,
        *(_classifier(subject, 32, seed, backbone=first.backbone) for seed in range(1, max(NUM_PROMPTS))),
    ]
    items = first.items(film_examples(64))
    rows = []
    for batch_size in BATCH_SIZES:
        num_steps = max(2, effort.reduce(8) // batch_size)
        training = TrainingConfig(learning_rate=0.003, batch_size=batch_size, steps=num_steps)
        jobs = {count: partial(_train, classifiers[:count], items, training) for count in NUM_PROMPTS}
        _train(classifiers[:1], items, training)
        seconds = time_in_turns({str(count): job for count, job in jobs.items()}, effort.turns)
        for count in NUM_PROMPTS:
            num_examples = count * batch_size * num_steps
            one_by_one = [count * spent for spent in seconds["1"]]
            ratio = median_ratio(one_by_one, seconds[str(count)])
            speeds = [f"{num_examples / median(spent):.1f}" for spent in (one_by_one, seconds[str(count)])]
            goal = f"{BATCHED_GOAL}" if count == max(NUM_PROMPTS) else ""
            title = f"{subject.title}: {count} prompts, {batch_size} examples each per step"
            rows.append([title, *speeds, f"{ratio:.2f}", goal])
        wide = training.model_copy(update={"batch_size": batch_size * max(NUM_PROMPTS)})
        rows += _memory_rows(subject, jobs, partial(_train, classifiers[:1], items, wide))
    return rows


def _train(classifiers: Sequence[ClozeClassifier], items: list[LabeledCloze], training: TrainingConfig) -> None:
    """Trains the prompts of all classifiers in one batch."""
    jobs = [
        TrainingJob(str(number), items, _parameters(classifier), training, number)
        for number, classifier in enumerate(classifiers)
    ]

    def compute_losses(batches: Any) -> Any:
        scores = multi_task_logits([(classifiers[number], [item.cloze for item in batch]) for number, batch in batches])
        return [
            classifiers[number].compute_loss(logits, batch)
            for (number, batch), logits in zip(batches, scores, strict=True)
        ]

    train_batched(jobs, compute_losses, NullRecorder(), InProcessEngine())


def _parameters(classifier: ClozeClassifier) -> dict[str, torch.nn.Parameter]:
    assert isinstance(classifier.prompt, torch.nn.Module)
    return dict(classifier.prompt.named_parameters())


def _memory_rows(subject: Subject, jobs: Mapping[int, Callable[[], None]], wide: Callable[[], None]) -> list[list[str]]:
    largest = max(NUM_PROMPTS)
    peak = peak_memory(jobs[largest])
    rows = []
    for other, job in (("one", jobs[1]), ("one with as many examples per step", wide)):
        extra = f"{(peak - peak_memory(job)) / 2**20:.0f}"
        rows.append([f"{subject.title}: extra memory of {largest} compared with {other}, MiB", "", extra, "", ""])
    return rows


def _cache_table(effort: Effort) -> str:
    """Speed of an epoch after the first one, with and without the cache of the texts."""
    classifier = _classifier(SMOLLM2, TEXT_TOKENS + NUM_VIRTUAL_TOKENS, 0, pattern=PROMPT_AT_END)
    long = [example for example in film_examples(4000) if len(example.fields["text"].split()) > 20]
    items = classifier.items(_join_quotes(long, effort.reduce(32)))
    cached = CachedTexts(classifier)
    assert all(item.cloze[0].soft_positions[0] == TEXT_TOKENS for item in items), "a text has fewer tokens"

    def run_epoch(compute_loss: Callable[[list[LabeledCloze]], Any], batch_size: int = 8) -> None:
        for start in range(0, len(items), batch_size):
            compute_loss(items[start : start + batch_size]).backward()

    jobs = {"whole": partial(run_epoch, classifier.loss), "cached": partial(run_epoch, cached.loss)}
    seconds = time_in_turns(jobs, effort.turns)
    speeds = {name: f"{len(items) / median(spent):.1f}" for name, spent in seconds.items()}
    ratio = median_ratio(seconds["whole"], seconds["cached"])
    rows = [
        ["the whole text in every step", speeds["whole"], "1.00", ""],
        ["over the cached text", speeds["cached"], f"{ratio:.2f}", f"{CACHE_GOAL}"],
    ]
    head = [f"{NUM_VIRTUAL_TOKENS} virtual tokens after {TEXT_TOKENS} tokens of text", "examples/s", "ratio", "goal"]
    return markdown_table(head, rows)


def _join_quotes(examples: list[Example], count: int) -> list[Example]:
    """Joins quotes to texts that are longer than the maximum length."""
    return [
        replace(one, fields={"text": f"{one.fields['text']} {two.fields['text']} {one.fields['text']}"})
        for one, two in zip(examples[:count], examples[count : 2 * count], strict=True)
    ]
