"""Losses of all stages, each with the items of one batch and what is trained, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.baseline.stage import GoldTargets
from stages.common.examples import Example
from stages.common.losses import ComputeLoss
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.backbones.partitioned import sharding_units
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.config import (
    LabelConditioningConfig,
    LossKind,
    MlmConfig,
    SampledDemonstrationsConfig,
)
from stages.common.models.cloze.demonstrations import Demonstrations
from stages.common.models.cloze.label_conditioning import LabelConditioning
from stages.common.models.cloze.mlm import MlmLoss
from stages.common.models.cloze.objective import Objective
from stages.common.models.cloze.prefix_cache import cached_loss, can_be_cached
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.protocols import Engine
from stages.common.training.loop import LengthGroupedSampler
from stages.common.training.students import StudentTargets
from stages.distillation.config import DistillationConfig
from stages.distillation.examples import DistillationExample
from stages.distillation.stage import DistillationTargets
from stages.prompt_pretraining.formats import PAIR_TASK
from stages.token_level.heads import SpanExtractor, TokenClassifier
from tests.support.small_models import backbone_config, film_example, film_task
from tests.support.token_level_data import ANSWERS, ENTITIES, questions, tagged_texts

LABELS = ("rotten", "fresh")
IDPG = PromptConfig(method="idpg", num_virtual_tokens=3, bottleneck_size=4)
ATTEMPT = PromptConfig(method="attempt", num_virtual_tokens=3, bottleneck_size=4, sources=("ppt",))


@contextmanager
def float64() -> Iterator[None]:
    """Computes in float64 where the product computes in float32 or more."""
    to_float32 = torch.Tensor.float
    torch.Tensor.float = lambda tensor: tensor.to(torch.float64)  # type: ignore[assignment, method-assign]
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.Tensor.float = to_float32  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)


class Problem(NamedTuple):
    """A loss, the items of one batch, and what is trained."""

    items: Sequence[Any]
    compute_loss: ComputeLoss[Any]
    parameters: Mapping[str, torch.nn.Parameter]
    prepare: Callable[[list[Any], int], list[Any]] | None = None
    sample: Callable[[int], Sequence[int]] | None = None


def films(count: int = 7) -> list[Example]:
    """Reviews of very different lengths; five of seven have the second label."""
    examples = []
    for number in range(count):
        item = film_example(number, LABELS[number % 3 > 0])
        examples.append(replace(item, fields={"text": f"{item.fields['text']} {'the music ' * (number**2 % 11)}"}))
    return examples


class Float64Engine:
    """Loads models in float64 and without dropout, before the engine spreads them over workers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def load_frozen(self, load_model: Callable[[], Any], **settings: Any) -> Any:
        return self._engine.load_frozen(lambda: load_model().double().eval(), **settings)

    def load_trained(self, load_model: Callable[[], Any], **settings: Any) -> Any:
        return self._engine.load_trained(lambda: load_model().double().eval(), **settings)


def backbone_of(folder: Path, engine: Engine, *, frozen: bool = False) -> Backbone:
    """A backbone without dropout."""
    backbone = load_backbone(backbone_config(folder), frozen=frozen, engine=Float64Engine(engine))
    backbone.model.eval()
    return backbone


def double_prompt(config: PromptConfig, backbone: Any, pattern: Any) -> Any:
    """Returns new vectors in float64."""
    torch.manual_seed(0)  # all workers have the same source prompts
    sources = torch.randn(len(config.sources), config.num_virtual_tokens, backbone.embedding_size).unbind()
    prompt = new_prompt(config, backbone, pattern, seed=1, sources=sources)
    assert prompt is not None
    if prompt.reads_text:  # at first the network has weights of 0, through which no gradient flows
        for parameter in prompt.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return prompt.double()


def cloze(
    folder: Path, engine: Engine, task: Task | None = None, prompt: PromptConfig | None = None, **settings: Any
) -> Problem:
    """Trains a backbone, or a prompt on it."""
    backbone = backbone_of(folder, engine, frozen=prompt is not None)
    task = task or film_task(folder.name)
    module = None if prompt is None else double_prompt(prompt, backbone, task.pattern("review"))
    classifier = ClozeClassifier.of(task, "review", backbone, backbone_config(folder), module, **settings)
    trained = module or backbone.model
    return Problem(classifier.items(films()), classifier.loss, dict(trained.named_parameters()))


def long_words(folder: Path, engine: Engine, prompt: PromptConfig | None = None) -> Problem:
    """Words of several tokens, with the hinge loss."""
    words = {"rotten": ["very bad"], "fresh": ["great", "good and fine"]}
    return cloze(folder, engine, film_task(folder.name).model_copy(update={"verbalizer": words}), prompt)


def auxiliary(folder: Path, engine: Engine) -> Problem:
    """The label loss with the auxiliary masked-LM loss on more, or on fewer, unlabeled than labeled texts."""
    problem = cloze(folder, engine)
    classifier = problem.compute_loss.__self__  # type: ignore[attr-defined]
    mixed = Objective(classifier.loss, [MlmLoss(classifier, films(9), MlmConfig(batch_size=5))], label_weight=0.5)
    return problem._replace(compute_loss=mixed, prepare=mixed.prepare)


def adapet(folder: Path, engine: Engine) -> Problem:
    """The decoupled label loss with label conditioning."""
    problem = cloze(folder, engine, loss_kind="decoupled")
    classifier = problem.compute_loss.__self__  # type: ignore[attr-defined]
    conditioning = LabelConditioning(classifier, LabelConditioningConfig(max_masked=0.5))
    objective = Objective(classifier.loss, [conditioning])
    return problem._replace(compute_loss=objective, prepare=objective.prepare)


def demonstrated(folder: Path, engine: Engine) -> Problem:
    """Demonstrations with each text, and soft labels with weights."""
    problem = cloze(folder, engine)
    classifier = problem.compute_loss.__self__  # type: ignore[attr-defined]
    demonstrations = Demonstrations(classifier, SampledDemonstrationsConfig(max_length=16), films(6), seed=0)

    def weighted(batch: list[Any], step: int) -> list[Any]:
        del step
        return [
            replace(item, weight=number % 3, label_probabilities=(number / 7, 1 - number / 7))
            for number, item in enumerate(batch)
        ]

    objective = Objective(classifier.loss, changes=[demonstrations.draw, weighted])
    return problem._replace(compute_loss=objective, prepare=objective.prepare)


def cached(folder: Path, engine: Engine) -> Problem:
    """A prompt after the text, trained over cached keys and values."""
    task = film_task("llama").only("review")
    task = task.model_copy(update={"patterns": {"review": "Review: {text}{soft:3}{mask}"}})
    problem = cloze(folder, engine, task, PromptConfig(num_virtual_tokens=3))
    classifier = problem.compute_loss.__self__  # type: ignore[attr-defined]
    assert can_be_cached(classifier) == (not classifier.backbone.is_partitioned)
    return problem._replace(compute_loss=cached_loss(classifier))


def pretraining(folder: Path, engine: Engine, loss_kind: LossKind = "auto") -> Problem:
    """The next sentences of PPT."""
    backbone = backbone_of(folder, engine, frozen=True)
    prompt = double_prompt(PromptConfig(num_virtual_tokens=4), backbone, None)
    classifier = ClozeClassifier.of(
        PAIR_TASK, backbone.family, backbone, backbone_config(folder), prompt, loss_kind=loss_kind
    )
    items = [
        Example(item.uid, {"first": "It was bad.", "second": item.fields["text"]}, ("yes", "maybe", "no")[number % 3])
        for number, item in enumerate(films())
    ]
    return Problem(classifier.items(items), classifier.loss, dict(prompt.named_parameters()))


def token_level(folder: Path, engine: Engine, model_class: Any) -> Problem:
    """A head and a prompt for words or answers; windows have different numbers of words."""
    backbone = backbone_of(folder, engine, frozen=True)
    prompt = double_prompt(PromptConfig(num_virtual_tokens=3), backbone, None)
    is_tagger = model_class is TokenClassifier
    model = model_class(ENTITIES if is_tagger else ANSWERS, backbone, backbone_config(folder), prompt)
    torch.nn.init.normal_(model.head.linear.weight)
    items = model.items((tagged_texts if is_tagger else questions)(7, 5))[:7]
    assert len({len(item.window.encoded.ids) for item in items}) > 2
    return Problem(items, model.loss, {**dict(prompt.named_parameters()), **dict(model.head.named_parameters())})


def student(folder: Path, engine: Engine, targets: StudentTargets[Any]) -> Problem:
    """A text classifier, in batches of similar lengths."""
    config = StudentConfig(asset=str(folder), max_length=32, precision="fp32", tune="full")
    classifier = TextClassifier.from_encoder(config, LABELS, ("text",), seed=0)
    encoder = classifier.encoder.model.double().eval()
    classifier.encoder.model = engine.load_trained(lambda: encoder, find_units=sharding_units)

    def compute_loss(part: list[Any], batch: list[Any]) -> Tensor:
        return targets.loss(classifier.logits(targets.examples(part)), part, batch)

    lengths = [classifier.encoder.num_characters(item) for item in targets.examples(targets.items)]
    sample = LengthGroupedSampler(lengths, len(targets.items), seed=0)
    return Problem(targets.items, compute_loss, classifier.parameters, sample=sample)


def distilled(folder: Path, engine: Engine) -> Problem:
    """Four examples with soft labels and three with weighted gold labels."""
    soft = [DistillationExample(item, (number / 3, -1.0)) for number, item in enumerate(films()[:4])]
    gold = [DistillationExample(item, (0.0, 0.0), LABELS.index(item.label or "")) for item in films()[4:]]
    config = DistillationConfig.model_validate(
        {
            "labels": LABELS,
            "fields": ("text",),
            "gold_weight": 0.3,
            "class_weights": "balanced",
            "student": {"asset": str(folder), "tune": "full"},
            "training": {"learning_rate": 0.1, "steps": 1},
        }
    )
    return student(folder, engine, DistillationTargets([*soft, *gold], config))


PROBLEMS: dict[str, tuple[str, Callable[[Path, Engine], Problem]]] = {
    "PET": ("bert", cloze),
    "PET, causal": ("gpt2", cloze),
    "PET, seq2seq": ("t5", cloze),
    "PET, hinge": ("bert", long_words),
    "PET, hinge, causal": ("gpt2", long_words),
    "PET, auxiliary": ("bert", auxiliary),
    "PET, ADAPET": ("bert", adapet),
    "PET, decoupled, causal": ("gpt2", lambda folder, engine: cloze(folder, engine, loss_kind="decoupled")),
    "PET, demonstrations": ("bert", demonstrated),
    "PET, demonstrations, causal": ("gpt2", demonstrated),
    "PET, demonstrations, seq2seq": ("t5", demonstrated),
    "prompt": ("gpt2", lambda folder, engine: cloze(folder, engine, prompt=PromptConfig(num_virtual_tokens=3))),
    "prompt, cached": ("gpt2", cached),
    "deep prompt": (
        "bert",
        lambda folder, engine: cloze(folder, engine, prompt=PromptConfig(method="p_tuning_v2", num_virtual_tokens=3)),
    ),
    "IDPG": ("bert", lambda folder, engine: cloze(folder, engine, prompt=IDPG)),
    "IDPG, hinge": ("gpt2", lambda folder, engine: long_words(folder, engine, IDPG)),
    "ATTEMPT": ("t5", lambda folder, engine: cloze(folder, engine, prompt=ATTEMPT)),
    "PPT": ("t5", pretraining),
    "PPT, vocabulary": ("gpt2", lambda folder, engine: pretraining(folder, engine, "vocabulary")),
    "tagger": ("gpt2", lambda folder, engine: token_level(folder, engine, TokenClassifier)),
    "answers": ("roberta", lambda folder, engine: token_level(folder, engine, SpanExtractor)),
    "baseline": ("bert", lambda folder, engine: student(folder, engine, GoldTargets(films(), LABELS, "balanced"))),
    "distillation": ("bert", distilled),
}
