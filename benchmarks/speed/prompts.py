"""Soft prompts: many trained in one batch against one after the other, and a prompt at the end over the kept cache of
the text against reading the whole text each step.

Both on SmolLM2-135M, frozen; the first also on BERT-tiny, where a pass is mostly overhead. Prompts train on 64 critics'
quotes. One after the other is the time of one prompt, times their number. Memory is the growth of the highest resident
size of the process, against one prompt with the same texts a prompt, and with the same texts a step in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.speed.timing import Effort, film_texts, in_turns, peak_of, ratio, recipe, table

if TYPE_CHECKING:
    from stages.common.models.cloze.classifier import ClozeClassifier

NUM_TRAINED = (1, 4, 16)
BATCHES = (1, 4)
TOGETHER_AIM, CACHE_AIM = 2.5, 1.8
TEXT_TOKENS, NUM_VECTORS = 64, 20
END = "{text}{soft:20}{mask}"


@dataclass(frozen=True)
class Subject:
    """A backbone (that of a recipe) with a pattern and words that it reads."""

    title: str
    recipe: str
    pattern: str
    words: dict[str, list[str]]


SMOLLM2 = Subject(
    "SmolLM2-135M", "demo", "Review: {text}\nSentiment:{mask}", {"rotten": ["negative"], "fresh": ["positive"]}
)
BERT_TINY = Subject("BERT-tiny", "smoke", "{text} It was {mask}.", {"rotten": ["bad"], "fresh": ["good"]})


def prompts(effort: Effort) -> str:
    """The two tables."""
    return f"{_together(effort)}\n{_cached(effort)}"


def _classifier(
    subject: Subject, max_length: int, seed: int, backbone: Any = None, pattern: str = ""
) -> ClozeClassifier:
    from stages.common.models.backbones.config import BackboneConfig
    from stages.common.models.backbones.loader import load_backbone
    from stages.common.models.cloze.classifier import ClozeClassifier
    from stages.common.patterns.config import Task
    from stages.common.prompts.config import PromptConfig
    from stages.common.prompts.initialization import new_prompt

    config = BackboneConfig(**{**recipe(subject.recipe)["backbone"], "max_length": max_length})
    backbone = backbone or load_backbone(config, frozen=True)
    patterns = {"p": pattern or subject.pattern}
    task = Task(name="films", labels=tuple(subject.words), patterns=patterns, verbalizer=subject.words)
    prompt = new_prompt(PromptConfig(num_virtual_tokens=10), backbone, task.pattern("p"), seed)
    return ClozeClassifier.of(task, "p", backbone, config, prompt)


def _together(effort: Effort) -> str:
    """Texts a second of 1, 4, 16 prompts in one batch, and of the same prompts one after the other."""
    head = ["trained at once", "one by one, texts/s", "together, texts/s", "times", "aim"]
    return table(head, [row for subject in (SMOLLM2, BERT_TINY) for row in _of_backbone(subject, effort)])


def _of_backbone(subject: Subject, effort: Effort) -> list[list[str]]:
    from stages.common.engine import InProcessEngine
    from stages.common.models.cloze.multi_task import multi_task_logits
    from stages.common.protocols import NullRecorder
    from stages.common.training.batched import TrainingJob, train_batched
    from stages.common.training.config import TrainingConfig

    first = _classifier(subject, 32, 0)
    classifiers = [first, *(_classifier(subject, 32, seed, first.backbone) for seed in range(1, max(NUM_TRAINED)))]
    items = first.items(film_texts(64))
    rows = []
    for batch_size in BATCHES:
        loop = TrainingConfig(learning_rate=0.003, batch_size=batch_size, steps=max(2, effort.of(8) // batch_size))

        wide = loop.model_copy(update={"batch_size": batch_size * max(NUM_TRAINED)})

        def train(numbers: list[int], loop: TrainingConfig = loop) -> None:
            own = [classifiers[number] for number in numbers]
            trainings = [
                TrainingJob(str(number), items, dict(item.prompt.named_parameters()), loop, number)
                for number, item in zip(numbers, own, strict=True)
            ]

            def losses_of(batches: Any) -> Any:
                scores = multi_task_logits([(own[number], [item.cloze for item in batch]) for number, batch in batches])
                return [
                    own[number].loss_of(found, batch) for (number, batch), found in zip(batches, scores, strict=True)
                ]

            train_batched(trainings, losses_of, NullRecorder(), InProcessEngine())

        train([0])
        jobs = {count: partial(train, list(range(count))) for count in NUM_TRAINED}
        seconds = in_turns({str(count): job for count, job in jobs.items()}, effort.turns)
        for count in NUM_TRAINED:
            texts = count * batch_size * (loop.steps or 0)
            alone = [count * one for one in seconds["1"]]
            times = ratio(alone, seconds[str(count)])
            speeds = [f"{texts / median(way):.1f}" for way in (alone, seconds[str(count)])]
            aim = f"{TOGETHER_AIM}" if count == max(NUM_TRAINED) else ""
            title = f"{subject.title}: {count} prompts, {batch_size} texts each a step"
            rows.append([title, *speeds, f"{times:.2f}", aim])
        most = max(NUM_TRAINED)
        peak = peak_of(jobs[most])
        for other, job in (("one", jobs[1]), ("one with as many texts a step", partial(train, [0], wide))):
            more = f"{(peak - peak_of(job)) / 2**20:.0f}"
            rows.append([f"{subject.title}: memory more for {most} than for {other}, MiB", "", more, "", ""])
    return rows


def _cached(effort: Effort) -> str:
    """Seconds of an epoch after the first, with and without the cache of the texts."""
    from stages.common.models.cloze.classifier import LabeledCloze
    from stages.common.models.cloze.prefix_cache import CachedTexts

    classifier = _classifier(SMOLLM2, TEXT_TOKENS + NUM_VECTORS, 0, pattern=END)
    long = [item for item in film_texts(4000) if len(item.fields["text"].split()) > 20]
    items = classifier.items(_joined(long, effort.of(32)))
    cached = CachedTexts(classifier)
    assert all(item.cloze[0].soft_positions[0] == TEXT_TOKENS for item in items), "every text has that many tokens"

    def epoch(loss_of: Any, batch: int = 8) -> None:
        for start in range(0, len(items), batch):
            part: list[LabeledCloze] = items[start : start + batch]
            loss_of(part).backward()

    jobs = {"whole": lambda: epoch(classifier.loss), "cached": lambda: epoch(cached.loss)}
    seconds = in_turns(jobs, effort.turns)
    times = ratio(seconds["whole"], seconds["cached"])
    rows = [
        ["the whole text each step", f"{len(items) / median(seconds['whole']):.1f}", "1.00", ""],
        ["over the kept cache", f"{len(items) / median(seconds['cached']):.1f}", f"{times:.2f}", f"{CACHE_AIM}"],
    ]
    return table([f"{NUM_VECTORS} vectors behind {TEXT_TOKENS} tokens of text", "texts/s", "times", "aim"], rows)


def _joined(texts: list[Any], count: int) -> list[Any]:
    """Texts of two quotes each: longer than what is kept of them."""
    from dataclasses import replace

    return [
        replace(one, fields={"text": f"{one.fields['text']} {two.fields['text']} {one.fields['text']}"})
        for one, two in zip(texts[:count], texts[count : 2 * count], strict=True)
    ]
