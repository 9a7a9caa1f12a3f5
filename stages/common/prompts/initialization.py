"""Initializes soft prompts: samples or computes their first vectors, and builds the prompt of a task.

On small backbones the initialization decides the accuracy: see the comparison in the report of a pipeline. Prefix
tuning starts best from the activations of real words (Li & Liang, ACL 2021, section 7.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.soft_input import gathered
from stages.common.patterns.config import Task
from stages.common.patterns.syntax import Pattern
from stages.common.patterns.verbalizers import Verbalizer
from stages.common.prompts.config import InitConfig, PromptConfig, check_fit
from stages.common.prompts.deep_prompts import KVLayout, activations
from stages.common.prompts.peft_format import load_prompt
from stages.common.prompts.prompt_modules import LowRankPrompt, PrefixEncoder, PromptEmbedding, PTuningEncoder
from stages.common.prompts.soft_prompt import Prompt, PromptPosition
from stages.common.seeds import derive_seed, torch_rng


def initialize_prompt(
    config: PromptConfig, task: Task, pattern: str, backbone: Backbone, seed: int, pretrained: Path | None
) -> Prompt:
    """The prompt of a task before its first step.

    Args:
        config: The method and its settings.
        task: The task, of whose label words some starts are made.
        pattern: Name of the pattern.
        backbone: The frozen model.
        seed: Seed of the start and of new weights.
        pretrained: Files of the prompt-pretraining stage, for `init: ppt`.
    """

    words = Verbalizer.of(task.words(pattern) if task.verbalizer else {}, backbone.tokenizer, backbone.family)
    vectors = pretrained_vectors(config, backbone, pretrained)
    return new_prompt(config, backbone, task.pattern(pattern), seed, [word[0] for word in words.flat], vectors)


def pretrained_vectors(config: PromptConfig, backbone: Backbone, pretrained: Path | None) -> Tensor | None:
    """[N, D] vectors of the prompt-pretraining stage's files, for `init: ppt`; else None."""

    if config.init != "ppt":
        return None
    assert pretrained is not None, "a step that starts from ppt has a pretrained prompt upstream"
    return load_prompt(pretrained / "prompt", backbone).vectors.cpu()


def new_prompt(
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
        pretrained: [N, D] vectors of a pretrained prompt, for `init: ppt`.

    Raises:
        InputError: method and pattern, or start and backbone, do not go together.
    """
    generator = torch_rng(seed, "start")
    torch.manual_seed(derive_seed(seed, "prompt"))
    hidden = config.encoder_hidden_size or backbone.embedding_size
    if pattern is not None:
        check_fit(config, pattern)
    if config.is_deep:
        assert config.init != "ppt", "refused by PromptConfig"
        layers = KVLayout.of(backbone)
        if config.encoder == "mlp":
            small = init_vectors(config.init, config.num_virtual_tokens, backbone, generator, label_words)
            return Prompt(PrefixEncoder(small, hidden, layers.width), "layers", layers).to(backbone.device)
        rows = init_deep_vectors(config.init, config.num_virtual_tokens, backbone, layers, generator, label_words)
        table = LowRankPrompt(rows, config.rank) if config.rank else PromptEmbedding(rows)
        return Prompt(table, "layers", layers).to(backbone.device)
    place: PromptPosition = "inside" if pattern is not None and pattern.has_soft_blocks else "before"
    values, are_words = _values(config, backbone, pattern, generator, label_words, pretrained)
    made: torch.nn.Module
    if config.encoder != "none":
        made = PTuningEncoder(values, config.encoder, hidden)
    elif config.rank:
        made = LowRankPrompt(values, config.rank)
    else:
        made = PromptEmbedding(values, are_words if config.hard_prompt_steps else None)
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
    count = sum(block.num_vectors for block in blocks) if blocks else config.num_virtual_tokens
    if config.init == "ppt":
        assert pretrained is not None, "a step that starts from ppt has a pretrained prompt upstream"
        if pattern is not None and blocks and len(pretrained) != count:
            raise InputError(
                f"pattern {pattern.name!r} has {count} soft vectors, and the pretrained prompt has {len(pretrained)}.",
                "Give both the same number, or take the soft blocks out: the prompt then stands before the text.",
            )
        return pretrained, [False] * len(pretrained)
    values = init_vectors(config.init, count, backbone, generator, label_words)
    are_words: list[bool] = []
    for block in blocks:
        if block.words:
            ids = word_ids(block.words, backbone.tokenizer)
            first = len(are_words)
            chosen = [ids[index % len(ids)] for index in range(block.num_vectors)]
            values[first : first + block.num_vectors] = embeddings(backbone, chosen)
        are_words += [bool(block.words)] * block.num_vectors
    return values, are_words


def init_vectors(
    config: InitConfig,
    num_vectors: int,
    backbone: Backbone,
    generator: Generator,
    label_words: Sequence[int] = (),
) -> Tensor:
    """Draws [N, D] float32 start values for a prompt of input vectors.

    Args:
        config: Kind and scale.
        num_vectors: N.
        backbone: The frozen model, whose input embeddings some kinds take.
        generator: CPU generator.
        label_words: Token ids of the task's label words, for that kind.

    Raises:
        InputError: the words have no token, or one that is not in the vocabulary.
    """
    if config.kind == "mean":
        with gathered(backbone.model.get_input_embeddings().weight) as table:
            mean = table.detach().float().mean(dim=0).cpu()
        return mean.expand(num_vectors, len(mean)).clone()
    ids = init_token_ids(config, num_vectors, backbone, generator, label_words)
    if ids is None:
        return _random_values(config, (num_vectors, backbone.embedding_size), generator)
    return embeddings(backbone, ids)


def embeddings(backbone: Backbone, ids: Sequence[int]) -> Tensor:
    """[N, D] float32 input embeddings of tokens."""
    with gathered(backbone.model.get_input_embeddings().weight) as table:
        return table.detach()[list(ids)].float().cpu()


def init_deep_vectors(
    config: InitConfig,
    num_places: int,
    backbone: Backbone,
    layers: KVLayout,
    generator: Generator,
    label_words: Sequence[int] = (),
) -> Tensor:
    """Draws [P, W] float32 start values for a deep prompt; arguments and errors as in `start_vectors`."""

    ids = init_token_ids(config, num_places, backbone, generator, label_words)
    if ids is None:
        return _random_values(config, (num_places, layers.width), generator)
    return activations(backbone, layers, ids)


def init_token_ids(
    config: InitConfig, count: int, backbone: Backbone, generator: Generator, label_words: Sequence[int]
) -> list[int] | None:
    """`count` token ids to start from; None for kinds that take no tokens."""

    tokenizer = backbone.tokenizer
    if config.kind == "sample_vocab":
        special = set(tokenizer.all_special_ids)
        size = backbone.model.get_input_embeddings().num_embeddings
        usual = [item for item in range(min(config.num_candidate_tokens, size)) if item not in special]
        order = torch.randperm(len(usual), generator=generator).tolist()
        return [usual[order[index % len(order)]] for index in range(count)]
    if config.kind == "text":
        ids = word_ids(config.text, tokenizer)
    elif config.kind == "label_words":
        ids = list(label_words)
        if not ids:
            raise InputError(
                "the task has no label words to start from.", "Take another kind of initialization.", key="init"
            )
    elif config.kind == "cls":
        named = (tokenizer.cls_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        ids = [next(item for item in named if item is not None)]
    else:
        return None
    return [ids[index % len(ids)] for index in range(count)]


def word_ids(words: str, tokenizer: object) -> list[int]:
    """Token ids of the words that a prompt or a soft block starts from.

    Raises:
        InputError: the words have no token, or one that is not in the vocabulary.
    """
    ids: list[int] = tokenizer(words, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    if not ids:
        raise InputError(f"words {words!r} have no token.", "Write words of the backbone's language.")
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in ids and unknown != getattr(tokenizer, "eos_token_id", None):
        raise InputError(
            f"words {words!r} are not all in the backbone's vocabulary.", "Write words of the backbone's language."
        )
    return ids


def _random_values(config: InitConfig, shape: tuple[int, int], generator: Generator) -> Tensor:

    if config.kind == "normal":
        return torch.randn(shape, generator=generator) * config.scale
    if config.kind == "uniform":
        return (torch.rand(shape, generator=generator) * 2 - 1) * config.scale
    return torch.zeros(shape)
