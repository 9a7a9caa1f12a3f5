"""The gradient of every loss is the same however a batch is split, in float64: no loss is a mean of means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from stages.baseline.stage import GoldTargets
from stages.common.engine import InProcessEngine
from stages.common.examples import Example
from stages.common.losses import ComputeLoss
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.config import LossKind, MlmConfig
from stages.common.models.cloze.mlm import with_mlm
from stages.common.models.cloze.prefix_cache import CachedTexts, can_be_cached
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.protocols import NullRecorder
from stages.common.training.config import TrainingConfig
from stages.common.training.loop import LengthGroupedSampler, train
from stages.common.training.students import StudentTargets
from stages.distillation.config import DistillationConfig
from stages.distillation.examples import DistillationExample
from stages.distillation.stage import DistillationTargets
from stages.probe.config import ContrastiveConfig
from stages.prompt_pretraining.formats import PAIR_TASK
from stages.token_level.heads import SpanExtractor, TokenClassifier
from tests.support.small_models import backbone_config, film_example, film_task
from tests.support.token_level_data import ANSWERS, ENTITIES, questions, tagged_texts

LABELS = ("rotten", "fresh")
SPLITS = (1, 2, 3, 5)
"""Sizes of micro-batches of a batch of 7."""


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Computes in float64 where the product computes in float32 or more."""
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor.to(torch.float64))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Problem(NamedTuple):
    """A loss, the items of one batch, and what is trained."""

    items: Sequence[Any]
    compute_loss: ComputeLoss[Any]
    parameters: Mapping[str, torch.nn.Parameter]
    prepare: Callable[[list[Any]], list[Any]] | None = None
    sample: Callable[[int], Sequence[int]] | None = None


class GradientsSeen(InProcessEngine):
    """Keeps the gradients of a step, and updates nothing."""

    gradient: Tensor

    def clip_grad_norm(self, parameters: Sequence[Any], max_norm: float) -> float:
        zeros = (torch.zeros_like(item) if item.grad is None else item.grad for item in parameters)
        self.gradient = torch.cat([item.flatten() for item in zeros])
        return float(self.gradient.norm())

    def optimizer_step(self, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=True)


def gradient(problem: Problem, micro_batch_size: int | None) -> tuple[Tensor, float]:
    """Returns the gradient and the loss of the first step."""
    engine = GradientsSeen()
    training = TrainingConfig(
        learning_rate=0.1, batch_size=len(problem.items), steps=1, micro_batch_size=micro_batch_size
    )
    [loss] = train(
        problem.items, problem.compute_loss, problem.parameters, training, seed=3, recorder=NullRecorder(),
        engine=engine, prepare=problem.prepare, sample=problem.sample,
    )  # fmt: skip
    return engine.gradient, loss


def films(count: int = 7) -> list[Example]:
    """Reviews of very different lengths; five of seven have the second label."""
    examples = []
    for number in range(count):
        item = film_example(number, LABELS[number % 3 > 0])
        examples.append(replace(item, fields={"text": f"{item.fields['text']} {'the music ' * (number**2 % 11)}"}))
    return examples


def backbone_of(folder: Path) -> Backbone:
    """A trainable backbone without dropout."""
    backbone = load_backbone(backbone_config(folder), frozen=False)
    backbone.model.double().eval()
    return backbone


def cloze(folder: Path, task: Task | None = None, prompt: PromptConfig | None = None, **settings: Any) -> Problem:
    """Trains a backbone, or a prompt on it."""
    backbone = backbone_of(folder)
    task = task or film_task(folder.name)
    module = prompt and new_prompt(prompt, backbone.freeze(), task.pattern("review"), seed=1).double()
    classifier = ClozeClassifier.of(task, "review", backbone, backbone_config(folder), module, **settings)
    trained = module or backbone.model
    return Problem(classifier.items(films()), classifier.loss, dict(trained.named_parameters()))


def long_words(folder: Path) -> Problem:
    """Words of several tokens, with the hinge loss."""
    words = {"rotten": ["very bad"], "fresh": ["great", "good and fine"]}
    return cloze(folder, film_task(folder.name).model_copy(update={"verbalizer": words}))


def auxiliary(folder: Path) -> Problem:
    """The label loss with the auxiliary masked-LM loss on more, or on fewer, unlabeled than labeled texts."""
    problem = cloze(folder)
    classifier = problem.compute_loss.__self__  # type: ignore[attr-defined]
    mixed = with_mlm(classifier, films(9), MlmConfig(weight=0.5, batch_size=5))
    return problem._replace(compute_loss=mixed, prepare=mixed.prepare)


def cached(folder: Path) -> Problem:
    """A prompt after the text, trained over cached keys and values."""
    task = film_task("llama").only("review")
    task = task.model_copy(update={"patterns": {"review": "Review: {text}{soft:3}{mask}"}})
    problem = cloze(folder, task, PromptConfig(num_virtual_tokens=3))
    classifier = problem.compute_loss.__self__  # type: ignore[attr-defined]
    assert can_be_cached(classifier)
    return problem._replace(compute_loss=CachedTexts(classifier).loss)


def pretraining(folder: Path, loss_kind: LossKind = "auto") -> Problem:
    """The next sentences of PPT."""
    backbone = backbone_of(folder).freeze()
    prompt = new_prompt(PromptConfig(num_virtual_tokens=4), backbone, None, seed=1).double()
    classifier = ClozeClassifier.of(
        PAIR_TASK, backbone.family, backbone, backbone_config(folder), prompt, loss_kind=loss_kind
    )
    items = [
        Example(item.uid, {"first": "It was bad.", "second": item.fields["text"]}, ("yes", "maybe", "no")[number % 3])
        for number, item in enumerate(films())
    ]
    return Problem(classifier.items(items), classifier.loss, dict(prompt.named_parameters()))


def token_level(folder: Path, model_class: Any) -> Problem:
    """A head and a prompt for words or answers; windows have different numbers of words."""
    backbone = backbone_of(folder).freeze()
    prompt = new_prompt(PromptConfig(num_virtual_tokens=3), backbone, None, seed=1).double()
    is_tagger = model_class is TokenClassifier
    model = model_class(ENTITIES if is_tagger else ANSWERS, backbone, backbone_config(folder), prompt)
    torch.nn.init.normal_(model.head.linear.weight)
    items = model.items((tagged_texts if is_tagger else questions)(7, 5))[:7]
    assert len({len(item.window.encoded.ids) for item in items}) > 2
    return Problem(items, model.loss, {**dict(prompt.named_parameters()), **dict(model.head.named_parameters())})


def student(folder: Path, targets: StudentTargets[Any]) -> Problem:
    """A text classifier, in batches of similar lengths."""
    config = StudentConfig(asset=str(folder), max_length=32, precision="fp32", tune="full")
    classifier = TextClassifier.from_encoder(config, LABELS, ("text",), seed=0)
    classifier.encoder.model.double().eval()

    def compute_loss(part: list[Any], batch: list[Any]) -> Tensor:
        return targets.loss(classifier.logits(targets.examples(part)), part, batch)

    lengths = [classifier.encoder.num_characters(item) for item in targets.examples(targets.items)]
    sample = LengthGroupedSampler(lengths, len(targets.items), seed=0)
    return Problem(targets.items, compute_loss, classifier.parameters, sample=sample)


def distilled(folder: Path) -> Problem:
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
    return student(folder, DistillationTargets([*soft, *gold], config))


PROBLEMS: dict[str, tuple[str, Callable[[Path], Problem]]] = {
    "PET": ("bert", cloze),
    "PET, causal": ("gpt2", cloze),
    "PET, seq2seq": ("t5", cloze),
    "PET, hinge": ("bert", long_words),
    "PET, hinge, causal": ("gpt2", long_words),
    "PET, auxiliary": ("bert", auxiliary),
    "prompt": ("gpt2", lambda folder: cloze(folder, prompt=PromptConfig(num_virtual_tokens=3))),
    "prompt, cached": ("gpt2", cached),
    "deep prompt": (
        "bert",
        lambda folder: cloze(folder, prompt=PromptConfig(method="p_tuning_v2", num_virtual_tokens=3)),
    ),
    "PPT": ("t5", pretraining),
    "PPT, vocabulary": ("gpt2", lambda folder: pretraining(folder, "vocabulary")),
    "tagger": ("gpt2", lambda folder: token_level(folder, TokenClassifier)),
    "answers": ("roberta", lambda folder: token_level(folder, SpanExtractor)),
    "baseline": ("bert", lambda folder: student(folder, GoldTargets(films(), LABELS, "balanced"))),
    "distillation": ("bert", distilled),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradient_does_not_depend_on_micro_batches(name: str, backbone_folders: dict[str, Path]) -> None:
    family, build = PROBLEMS[name]
    problem = build(backbone_folders[family])
    assert len(problem.items) == 7
    expected, expected_loss = gradient(problem, None)
    assert expected.dtype == torch.float64 and expected.abs().max() > 1e-3
    for size in SPLITS:
        actual, loss = gradient(problem, size)
        assert (actual - expected).abs().max() < 1e-6, size
        assert loss == pytest.approx(expected_loss, abs=1e-6)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_gradient_does_not_depend_on_passes_by_length(family: str, backbone_folders: dict[str, Path]) -> None:
    """Texts of an architecture that padding would change are read in one pass per length."""
    problem = cloze(backbone_folders[family])
    expected, _ = gradient(problem, None)
    backbone = problem.compute_loss.__self__.backbone  # type: ignore[attr-defined]
    assert backbone.traits.padding != "none"
    backbone.traits = replace(backbone.traits, padding="none")
    actual, _ = gradient(problem, None)
    assert (actual - expected).abs().max() < 1e-6


def test_batches_of_pairs_are_not_split() -> None:
    training = {"learning_rate": 1e-3, "steps": 1, "micro_batch_size": 2}
    with pytest.raises(ValueError, match="compares all texts of a batch"):
        ContrastiveConfig.model_validate({"training": training})
