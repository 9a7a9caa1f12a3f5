"""A soft prompt: its vectors, and where in the forward pass they stand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.soft_input import SoftInput
from stages.prompts.deep import Layers
from stages.prompts.methods import PromptConfig, check_fit
from stages.prompts.start import start_rows, start_vectors, word_ids
from stages.prompts.vectors import LowRank, Projected, Recurrent, Table
from stages.seeds import derive_seed, torch_rng

if TYPE_CHECKING:
    from stages.models.backbones import Backbone
    from stages.patterns.language import Pattern
    from stages.tasks import Task

Place = Literal["before", "inside", "layers"]
"""before: ahead of the text; inside: in the soft blocks of the pattern; layers: keys and values of every layer."""


class Prompt(torch.nn.Module):
    """A prompt in training or in use; `table` returns its [N, W] vectors."""

    def __init__(self, table: torch.nn.Module, place: Place = "before", layers: Layers | None = None) -> None:
        super().__init__()
        self.table = table
        self.place: Place = place
        self.layers = layers

    def forward(self) -> SoftInput:
        """What the prompt puts into a forward pass."""
        return self.soft_input(self.table())

    def soft_input(self, vectors: Tensor) -> SoftInput:
        """The same from vectors [N, W], or [B, N, W] with some for each example."""
        if self.place == "before":
            return SoftInput(before=vectors)
        if self.place == "inside":
            return SoftInput(inside=vectors)
        assert self.layers is not None
        return SoftInput(layers=self.layers.keys_and_values(vectors))

    @property
    def vectors(self) -> Tensor:
        """[N, W] without gradients."""
        with torch.no_grad():
            made: Tensor = self.table()
        return made

    @property
    def num_vectors(self) -> int:
        """N."""
        return int(self.vectors.shape[0])


def started(
    config: PromptConfig, task: Task, pattern: str, backbone: Backbone, seed: int, pretrained: Path | None
) -> Prompt:
    """The prompt of a task before its first step.

    Args:
        config: The method and its settings.
        task: The task, of whose label words some starts are made.
        pattern: Name of the pattern.
        backbone: The frozen model.
        seed: Seed of the start and of new weights.
        pretrained: Files of the prompt-pretraining stage, for `start: ppt`.
    """
    from stages.patterns.verbalizers import Verbalizer

    words = Verbalizer.of(task.words(pattern) if task.verbalizer else {}, backbone.tokenizer, backbone.family)
    vectors = pretrained_vectors(config, backbone, pretrained)
    return fresh(config, backbone, task.pattern(pattern), seed, [word[0] for word in words.flat], vectors)


def pretrained_vectors(config: PromptConfig, backbone: Backbone, pretrained: Path | None) -> Tensor | None:
    """[N, D] vectors of the prompt-pretraining stage's files, for `start: ppt`; else None."""
    from stages.prompts.peft_format import load_prompt

    if config.start != "ppt":
        return None
    assert pretrained is not None, "a step that starts from ppt has a pretrained prompt upstream"
    return load_prompt(pretrained / "prompt", backbone).vectors.cpu()


def fresh(
    config: PromptConfig,
    backbone: Backbone,
    pattern: Pattern | None,
    seed: int,
    label_words: Sequence[int] = (),
    pretrained: Tensor | None = None,
) -> Prompt:
    """A new prompt for a pattern.

    Args:
        config: The method and its settings.
        backbone: The frozen model.
        pattern: The pattern, in whose soft blocks the vectors stand, if it has any; None: a task without one.
        seed: Seed of the start and of new weights.
        label_words: Token ids of the task's label words.
        pretrained: [N, D] vectors of a pretrained prompt, for `start: ppt`.

    Raises:
        InputError: method and pattern, or start and backbone, do not go together.
    """
    generator = torch_rng(seed, "start")
    torch.manual_seed(derive_seed(seed, "prompt"))
    hidden = config.hidden or backbone.width
    if pattern is not None:
        check_fit(config, pattern)
    if config.is_deep:
        assert config.start != "ppt", "refused by PromptConfig"
        layers = Layers.of(backbone)
        if config.encoder == "mlp":
            small = start_vectors(config.start, config.num_vectors, backbone, generator, label_words)
            return Prompt(Projected(small, hidden, layers.width), "layers", layers).to(backbone.device)
        rows = start_rows(config.start, config.num_vectors, backbone, layers, generator, label_words)
        table = LowRank(rows, config.rank) if config.rank else Table(rows)
        return Prompt(table, "layers", layers).to(backbone.device)
    place: Place = "inside" if pattern is not None and pattern.has_soft_blocks else "before"
    values, are_words = _values(config, backbone, pattern, generator, label_words, pretrained)
    made: torch.nn.Module
    if config.encoder != "none":
        made = Recurrent(values, config.encoder, hidden)
    elif config.rank:
        made = LowRank(values, config.rank)
    else:
        made = Table(values, are_words if config.hard_steps else None)
    return Prompt(made, place).to(backbone.device)


def _values(
    config: PromptConfig,
    backbone: Backbone,
    pattern: Pattern | None,
    generator: torch.Generator,
    label_words: Sequence[int],
    pretrained: Tensor | None,
) -> tuple[Tensor, list[bool]]:
    """[N, D] input vectors to start from, and which of them are words of the pattern's soft blocks."""
    blocks = () if pattern is None else pattern.soft_blocks
    count = sum(block.num_vectors for block in blocks) if blocks else config.num_vectors
    if config.start == "ppt":
        assert pretrained is not None, "a step that starts from ppt has a pretrained prompt upstream"
        if pattern is not None and blocks and len(pretrained) != count:
            raise InputError(
                f"pattern {pattern.name!r} has {count} soft vectors, and the pretrained prompt has {len(pretrained)}.",
                "Give both the same number, or take the soft blocks out: the prompt then stands before the text.",
            )
        return pretrained, [False] * len(pretrained)
    values = start_vectors(config.start, count, backbone, generator, label_words)
    are_words: list[bool] = []
    for block in blocks:
        if block.words:
            ids = word_ids(block.words, backbone.tokenizer)
            first = len(are_words)
            table = backbone.model.get_input_embeddings().weight.detach()
            chosen = [ids[index % len(ids)] for index in range(block.num_vectors)]
            values[first : first + block.num_vectors] = table[chosen].float().cpu()
        are_words += [bool(block.words)] * block.num_vectors
    return values, are_words
