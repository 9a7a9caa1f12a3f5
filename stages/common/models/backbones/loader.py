"""Loads backbones, and caches the frozen one of this process.

Worker processes run many steps, and most of these need the same backbone. A sub-model attaches its adapter, trains,
predicts, and removes the adapter again; the weights of the backbone do not change. On GPUs, Ray ends a worker with its
step, so each step loads its backbone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stages.common.engine import InProcessEngine
from stages.common.errors import AssetError
from stages.common.models.backbones.base import Backbone, num_embeddings
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.examination import BACKBONES
from stages.common.models.backbones.folders import backbone_folder, backbone_identity
from stages.common.models.backbones.partitioned import is_partitioned, sharding_units
from stages.common.models.backbones.weights import read_model
from stages.common.models.batching import default_device, wants_bf16
from stages.common.models.config import eval_batch_tokens
from stages.common.models.meta_models import largest_weight
from stages.common.models.model_files import architecture_of, family_of
from stages.common.models.tokenizers import load_tokenizer
from stages.common.models.traits_cache import folder_traits
from stages.common.protocols import Engine


def load_backbone(config: BackboneConfig, *, frozen: bool, engine: Engine | None = None) -> Backbone:
    """Loads model and tokenizer: a frozen model in `config.precision`, a model to be trained in float32.

    Args:
        config: The model.
        frozen: If True, the weights never change.
        engine: May spread the model over its workers.

    Raises:
        AssetError: the reference is unreachable, or has no language model.
        InputError: what the model computes would be wrong.
    """
    folder, trust = backbone_folder(config), config.trust_remote_code
    family = family_of(folder)
    traits = folder_traits(folder, trust_remote_code=trust)
    traits.check("score", architecture_of(folder))
    dtype = torch.bfloat16 if frozen and wants_bf16(config.precision) else torch.float32
    read = partial(read_model, folder, dtype, trust_remote_code=trust)
    engine, largest = engine or InProcessEngine(), partial(largest_weight, folder, trust_remote_code=trust)
    if frozen:
        bf16 = dtype == torch.bfloat16
        model = engine.load_frozen(read, bf16=bf16, largest_weight=largest, find_units=sharding_units)
    else:
        model = engine.load_trained(read, find_units=sharding_units)
    if not any(map(is_partitioned, model.parameters())):
        model = model.to(default_device())
    tokenizer = load_tokenizer(folder, trust_remote_code=trust)
    check_vocabulary(folder, model, tokenizer)
    backbone = BACKBONES[family](model, tokenizer, traits)
    backbone.eval_batch_tokens = eval_batch_tokens(config.eval_batch_tokens, on_gpu=backbone.is_on_gpu)
    return backbone.freeze() if frozen else backbone


def check_vocabulary(folder: Path, model: Any, tokenizer: Any) -> None:
    """Checks that every token has an embedding.

    Raises:
        AssetError: the tokenizer has more tokens than the model has embeddings.
    """
    size = num_embeddings(model)
    largest = max(tokenizer.get_vocab().values())
    if largest >= size:
        raise AssetError(
            f"the tokenizer in {folder} has ids up to {largest}, but the model has {size} embeddings.",
            "Use the tokenizer that belongs to the model.",
        )


_cached: dict[tuple[str, str], Backbone] = {}
"""(Identity, precision) -> the frozen backbone of this process; at most one."""


@contextmanager
def borrow_backbone(config: BackboneConfig, engine: Engine | None = None) -> Iterator[Backbone]:
    """Yields the cached frozen backbone for `config`, loading it on first use. Callers must not modify it.

    After an exception in the block it is loaded again on the next use.

    Args:
        config: The model.
        engine: May spread the model over its workers. Default: one process.

    Raises:
        AssetError: the reference is unreachable, or has no language model.
    """
    key = (backbone_identity(config), config.precision)
    backbone = _cached.pop(key, None)
    if backbone is None:
        _cached.clear()  # before loading: two large models may not fit into memory
        backbone = load_backbone(config, frozen=True, engine=engine or InProcessEngine())
    backbone.eval_batch_tokens = eval_batch_tokens(config.eval_batch_tokens, on_gpu=backbone.is_on_gpu)
    yield backbone
    _cached[key] = backbone.freeze()
