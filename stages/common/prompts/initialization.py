"""Initializes soft prompts: samples or computes their first vectors, and builds the prompt of a task.

On small backbones the initialization decides the accuracy: see the comparison in the report of a pipeline. Prefix
tuning starts best from the activations of real words (Li & Liang, ACL 2021, section 7.4). Letters in names of tensors:
N vectors of a prompt, D embedding size, P positions of a deep prompt, W values per position.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone, num_embeddings
from stages.common.models.backbones.partitioned import gathered
from stages.common.models.backbones.soft_input import PromptPosition
from stages.common.patterns.config import Task
from stages.common.patterns.syntax import Pattern
from stages.common.patterns.verbalizers import Verbalizer
from stages.common.prompts.config import InitConfig, PromptConfig, check_fit
from stages.common.prompts.deep_prompts import DeepLayout, KVLayout, activations
from stages.common.prompts.peft_format import load_prompt
from stages.common.prompts.soft_prompt import (
    ChosenLayers,
    GatedPrompt,
    JoinedPrompts,
    LowRankPrompt,
    PrefixEncoder,
    Prompt,
    PromptEmbedding,
    PTuningEncoder,
)
from stages.common.prompts.text_prompts import InstancePrompt, PromptMixture, TextReader
from stages.common.seeds import derive_seed, torch_rng


def initialize_prompt(
    config: PromptConfig,
    task: Task,
    pattern: str,
    backbone: Backbone,
    *,
    seed: int,
    pretrained: Path | None,
    sources: Sequence[Path] = (),
) -> Prompt | None:
    """Returns the prompt of a task before its first step; None for method: lora, which has none.

    Args:
        config: The method and its settings.
        task: The task; `init: label_words` uses its label words.
        pattern: Name of the pattern.
        backbone: The frozen model.
        seed: Seed of the initialization and of new weights.
        pretrained: Files of the prompt-pretraining stage, for `init: ppt`.
        sources: Files of the steps with the prompts of `sources`.
    """
    words = Verbalizer.of(task.words(pattern) if task.verbalizer else {}, backbone.tokenizer)
    vectors = pretrained_vectors(config, backbone, pretrained)
    return new_prompt(
        config,
        backbone,
        task.pattern(pattern),
        seed=seed,
        label_words=[word[0] for word in words.flat],
        pretrained=vectors,
        sources=source_vectors(sources, backbone),
    )


def pretrained_vectors(config: PromptConfig, backbone: Backbone, pretrained: Path | None) -> Tensor | None:
    """Returns the vectors that a prompt starts from: those of a pretrained prompt for `init: ppt`, or of the trained
    prompt of another task for `transfer`; otherwise None.

    Raises:
        InputError: the prompt of the other task depends on the text, or is at another place of the model.
    """
    if not config.starts_from_prompt:
        return None
    assert pretrained is not None, "a step with init: ppt or transfer has a prompt upstream"
    return _trained_vectors(pretrained, backbone, config.places if config.is_deep else None, "transfer")


def source_vectors(sources: Sequence[Path], backbone: Backbone) -> list[Tensor]:
    """Returns the vectors [N, D] of the prompts that a mixture has, from the files of their steps.

    Raises:
        InputError: a prompt depends on the text, or is not in the input.
    """
    return [_trained_vectors(folder, backbone, None, "sources") for folder in sources]


def _trained_vectors(folder: Path, backbone: Backbone, places: tuple[str, ...] | None, key: str) -> Tensor:
    prompt = load_prompt(folder / "prompt", backbone)
    if prompt.reads_text:
        raise InputError(
            "the prompt of the other task depends on the text, so it has no vectors to use.",
            "Set a method whose vectors are the same for all texts.",
            key=key,
        )
    if places != (None if prompt.layers is None else tuple(prompt.layers.parts)):
        raise InputError(
            "the prompt of the other task is at another place of the model.",
            "Set the same method and prefix_at for both." if key == "transfer" else "Use a prompt of input vectors.",
            key=key,
        )
    return prompt.vectors.cpu()


def new_prompt(
    config: PromptConfig,
    backbone: Backbone,
    pattern: Pattern | None,
    *,
    seed: int,
    label_words: Sequence[int] = (),
    pretrained: Tensor | None = None,
    sources: Sequence[Tensor] = (),
) -> Prompt | None:
    """Returns a new prompt for a pattern; None for method: lora, which has none.

    Args:
        config: The method and its settings.
        backbone: The frozen model.
        pattern: The pattern; if it has soft blocks, the vectors fill them. None for a task without patterns.
        seed: Seed of the initialization and of new weights.
        label_words: Token ids of the task's label words.
        pretrained: [N, W] vectors of `pretrained_vectors`.
        sources: [N, D] vectors of `source_vectors`.

    Raises:
        InputError: method and pattern, or initialization and backbone, do not fit together.
    """
    generator = torch_rng(seed, "start")
    torch.manual_seed(derive_seed(seed, "prompt"))
    if pattern is not None:
        check_fit(config, pattern)
    if config.method == "lora":
        return None
    module: torch.nn.Module
    if config.is_deep:
        if config.prefix_at is not None and backbone.family != "seq2seq":
            raise InputError(
                f"prefix_at is for seq2seq models, but the backbone is {backbone.family}.",
                "Remove prefix_at.",
                key="prefix_at",
            )
        layers = _deep_layout(config, backbone)
        if pretrained is not None:
            module = LowRankPrompt(pretrained, config.rank) if config.rank else PromptEmbedding(pretrained)
        else:
            module = _deep_module(config, backbone, layers, generator, label_words)
        if config.gates:
            num_rows = config.prompt_length if pretrained is None else len(pretrained)
            module = GatedPrompt(module, num_rows, layers.layer_widths)
        return Prompt(module, "layers", layers, noise=config.noise).to(backbone.device)
    position: PromptPosition = "inside" if pattern is not None and pattern.has_soft_blocks else "before"
    first = _input_vectors(config, backbone, pattern, generator, label_words=label_words, pretrained=pretrained)
    if config.reads_text:
        return _text_prompt(config, backbone, position, first.vectors, sources).to(backbone.device)
    if config.encoder != "none":
        base = first.vectors if config.is_residual or any(first.are_words) else None
        size = config.encoder_hidden_size or backbone.embedding_size
        module = PTuningEncoder(_encoder_input(first.vectors, generator), config.encoder, size, base)
    elif config.rank:
        module = LowRankPrompt(first.vectors, config.rank)
    else:
        module = PromptEmbedding(first.vectors, first.are_words if config.hard_prompt_steps else None)
    if config.gates:
        module = GatedPrompt(module, len(first.vectors), [first.vectors.shape[1]])
    return Prompt(module, position, noise=config.noise).to(backbone.device)


def _text_prompt(
    config: PromptConfig, backbone: Backbone, position: PromptPosition, vectors_ND: Tensor, sources: Sequence[Tensor]
) -> Prompt:
    """Returns a prompt whose vectors depend on the text.

    Raises:
        InputError: a source prompt has another number of vectors.
    """
    if config.method == "idpg":
        reader = TextReader(backbone, "mean_state" if config.text_encoder == "backbone" else "mean_embedding")
        return Prompt(InstancePrompt(vectors_ND, reader.size, config.bottleneck), position, reader=reader)
    assert sources, "a step with sources has prompts upstream"
    for source_ND in sources:
        if source_ND.shape != vectors_ND.shape:
            raise InputError(
                f"a source prompt has {len(source_ND)} vectors, but the mixture has {len(vectors_ND)}.",
                "Give all of them the same number of vectors.",
                key="sources",
            )
    mixture = PromptMixture(vectors_ND, torch.stack(list(sources)), config.bottleneck, config.temperature)
    return Prompt(mixture, position, reader=TextReader(backbone, "max_embedding"))


def _deep_module(
    config: PromptConfig, backbone: Backbone, layers: DeepLayout, generator: Generator, label_words: Sequence[int]
) -> torch.nn.Module:
    """Returns the module that produces the keys and values of every layer."""
    assert config.init != "ppt", "PromptConfig rejects it"
    count = config.prompt_length
    if config.encoder == "mlp":
        size = config.encoder_hidden_size or backbone.embedding_size
        ids = init_token_ids(config.init, count, backbone, generator, label_words)
        base_PW: Tensor | None = None
        if ids is not None:
            vectors_ND, base_PW = embeddings(backbone, ids), activations(backbone, layers, ids)
        else:
            vectors_ND = _encoder_input(init_vectors(config.init, count, backbone, generator), generator)
            base_PW = torch.zeros(count, layers.width) if config.is_residual else None
        widths = [part.width for part in layers.parts.values()]
        bases = [None] * len(widths) if base_PW is None else base_PW.split(widths, dim=1)
        encoders = [PrefixEncoder(vectors_ND, size, width, base) for width, base in zip(widths, bases, strict=True)]
        return encoders[0] if len(encoders) == 1 else JoinedPrompts(encoders)
    rows_PW = init_deep_vectors(config.init, count, backbone, layers, generator, label_words=label_words)
    if layers.lengths is not None:
        return ChosenLayers(rows_PW, layers.is_used(count))
    return LowRankPrompt(rows_PW, config.rank) if config.rank else PromptEmbedding(rows_PW)


def _deep_layout(config: PromptConfig, backbone: Backbone) -> DeepLayout:
    """Returns the layout of a deep prompt.

    Raises:
        InputError: the backbone has no such layer, or other layers than the lengths.
    """
    if config.layers is None:
        return DeepLayout.of(backbone, config.places, config.layer_lengths)
    num_layers = {place: KVLayout.of(backbone, place).num_layers for place in config.places}
    if max(config.layers) >= (count := min(num_layers.values())):
        raise InputError(
            f"there is no layer {max(config.layers)}: the backbone has {count} layers, from 0 on.",
            "Remove it from layers.",
            key="layers",
        )
    lengths = [config.num_virtual_tokens if layer in config.layers else 0 for layer in range(count)]
    return DeepLayout.of(backbone, config.places, lengths)


def _encoder_input(vectors_ND: Tensor, generator: Generator) -> Tensor:
    """Returns `vectors_ND`, or random ones instead of zeros, from which an encoder would learn nothing but a bias."""
    if vectors_ND.any():
        return vectors_ND
    return _random_values(InitConfig(kind="normal"), (len(vectors_ND), vectors_ND.shape[1]), generator)


class _InputVectors(NamedTuple):
    """`vectors` [N, D]: the first values; `are_words` [N]: which of them are words of the pattern's soft blocks."""

    vectors: Tensor
    are_words: list[bool]


def _input_vectors(
    config: PromptConfig,
    backbone: Backbone,
    pattern: Pattern | None,
    generator: Generator,
    *,
    label_words: Sequence[int],
    pretrained: Tensor | None,
) -> _InputVectors:
    blocks = () if pattern is None else pattern.soft_blocks
    count = sum(block.num_virtual_tokens for block in blocks) if blocks else config.num_virtual_tokens
    if config.init == "ppt" or config.transfer is not None:
        assert pretrained is not None, "a step with init: ppt or transfer has a prompt upstream"
        if pattern is not None and blocks and len(pretrained) != count:
            raise InputError(
                f"pattern {pattern.name!r} has {count} soft vectors, and the pretrained prompt has {len(pretrained)}.",
                "Give both the same number, or remove the soft blocks to put the prompt before the text.",
            )
        return _InputVectors(pretrained, [False] * len(pretrained))
    vectors_ND = init_vectors(config.init, count, backbone, generator, label_words)
    are_words: list[bool] = []
    for block in blocks:
        if block.words:
            ids = word_ids(block.words, backbone.tokenizer)
            first = len(are_words)
            block_ids = [ids[index % len(ids)] for index in range(block.num_virtual_tokens)]
            vectors_ND[first : first + block.num_virtual_tokens] = embeddings(backbone, block_ids)
        are_words += [bool(block.words)] * block.num_virtual_tokens
    return _InputVectors(vectors_ND, are_words)


def init_vectors(
    config: InitConfig,
    num_virtual_tokens: int,
    backbone: Backbone,
    generator: Generator,
    label_words: Sequence[int] = (),
) -> Tensor:
    """Returns the first values of a prompt of input vectors, [N, D] float32.

    Args:
        config: Kind and scale.
        num_virtual_tokens: N.
        backbone: The frozen model; some kinds use its input embeddings.
        generator: CPU generator.
        label_words: Token ids of the task's label words, for `label_words`.

    Raises:
        InputError: the text has no token, or a token that is not in the vocabulary.
    """
    if config.kind == "mean":
        with gathered(backbone.model.get_input_embeddings().weight) as table:
            mean_D: Tensor = table.detach().float().mean(dim=0).cpu()
        return mean_D.expand(num_virtual_tokens, len(mean_D)).clone()
    ids = init_token_ids(config, num_virtual_tokens, backbone, generator, label_words)
    if ids is None:
        return _random_values(config, (num_virtual_tokens, backbone.embedding_size), generator)
    return embeddings(backbone, ids)


def embeddings(backbone: Backbone, ids: Sequence[int]) -> Tensor:
    """Returns the input embeddings of tokens, [N, D] float32."""
    with gathered(backbone.model.get_input_embeddings().weight) as table:
        vectors_ND: Tensor = table.detach()[list(ids)].float().cpu()
    return vectors_ND


def init_deep_vectors(
    config: InitConfig,
    num_positions: int,
    backbone: Backbone,
    layers: DeepLayout,
    generator: Generator,
    *,
    label_words: Sequence[int] = (),
) -> Tensor:
    """Returns the first values of a deep prompt, [P, W] float32; arguments and errors as in `init_vectors`."""
    ids = init_token_ids(config, num_positions, backbone, generator, label_words)
    if ids is None:
        return _random_values(config, (num_positions, layers.width), generator)
    return activations(backbone, layers, ids)


def init_token_ids(
    config: InitConfig, count: int, backbone: Backbone, generator: Generator, label_words: Sequence[int]
) -> list[int] | None:
    """Returns `count` token ids to start from; None for kinds without tokens."""
    tokenizer = backbone.tokenizer
    if config.kind == "sample_vocab":
        special = set(tokenizer.all_special_ids)
        size = num_embeddings(backbone.model)
        candidates = [item for item in range(min(config.num_candidate_tokens, size)) if item not in special]
        order = torch.randperm(len(candidates), generator=generator).tolist()
        return [candidates[order[index % len(order)]] for index in range(count)]
    if config.kind == "text":
        ids = word_ids(config.text, tokenizer)
    elif config.kind == "label_words":
        ids = list(label_words)
        if not ids:
            raise InputError(
                "the task has no label words to start from.", "Set another kind of initialization.", key="init"
            )
    elif config.kind == "cls":
        special_ids = (tokenizer.cls_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        ids = [next(item for item in special_ids if item is not None)]
    else:
        return None
    return [ids[index % len(ids)] for index in range(count)]


def word_ids(words: str, tokenizer: Any) -> list[int]:
    """Returns the token ids of the words that a prompt or a soft block starts from.

    Raises:
        InputError: the words have no token, or a token that is not in the vocabulary.
    """
    ids: list[int] = tokenizer(words, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError(f"the words {words!r} have no token.", "Write words of the backbone's language.")
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in ids and unknown != getattr(tokenizer, "eos_token_id", None):
        raise InputError(
            f"the words {words!r} are not all in the backbone's vocabulary.", "Write words of the backbone's language."
        )
    return ids


def _random_values(config: InitConfig, shape: tuple[int, int], generator: Generator) -> Tensor:
    if config.kind == "normal":
        return torch.randn(shape, generator=generator) * config.scale
    if config.kind == "uniform":
        return (torch.rand(shape, generator=generator) * 2 - 1) * config.scale
    return torch.zeros(shape)
