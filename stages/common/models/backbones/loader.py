"""Loads backbones, and caches the frozen one of this process.

Worker processes run many steps, and most of them need the same backbone. Sub-models with adapters attach them, train,
label, and remove them again; the weights below stay unchanged. On GPUs Ray ends a worker with its step, so each step
loads its backbone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from transformers import AutoTokenizer

from stages.common.assets.cache import identity
from stages.common.engine import InProcessEngine
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.soft_input import is_partitioned
from stages.common.models.batching import attention_implementation, default_device, wants_bf16
from stages.common.models.config import eval_batch_tokens
from stages.common.models.meta_models import auto_class_for, largest_weight
from stages.common.models.model_files import family_of, model_folder
from stages.common.protocols import Engine


def load_backbone(config: BackboneConfig, *, frozen: bool, engine: Engine | None = None) -> Backbone:
    """Loads model and tokenizer; a frozen one in `config.precision`, one to be trained in float32.

    Args:
        config: The model.
        frozen: Whether its weights stay as they are.
        engine: May spread a frozen one over its workers.

    Raises:
        AssetError: the reference cannot be reached or holds no model.
    """

    folder = model_folder(config.asset)
    family = family_of(folder)
    dtype = torch.bfloat16 if frozen and wants_bf16(config.precision) else torch.float32
    read = partial(
        auto_class_for(family).from_pretrained,
        folder,
        dtype=dtype,
        attn_implementation=attention_implementation(),
        use_safetensors=True,
    )
    engine, largest = engine or InProcessEngine(), partial(largest_weight, folder)
    model = engine.load_frozen(read, bf16=dtype == torch.bfloat16, largest_weight=largest) if frozen else read()
    if not is_partitioned(next(model.parameters())):
        model = model.to(default_device())
    backbone = Backbone(model, AutoTokenizer.from_pretrained(folder), family)
    backbone.eval_batch_tokens = eval_batch_tokens(config.eval_batch_tokens, on_gpu=backbone.is_on_gpu)
    return backbone.freeze() if frozen else backbone


_resident: dict[tuple[str, str], Backbone] = {}
"""At most one: a second backbone takes the place of the first."""


@contextmanager
def borrow_backbone(config: BackboneConfig, engine: Engine | None = None) -> Iterator[Backbone]:
    """Lends the frozen backbone of `config`; whoever borrows it gives it back as it was.

    After an error it is loaded anew, since nobody knows in which state it was left.

    Args:
        config: The model.
        engine: May spread it over the workers; None: one process.

    Raises:
        AssetError: the reference cannot be reached or holds no model.
    """
    key = (identity(config.asset), config.precision)
    backbone = _resident.pop(key, None)
    if backbone is None:
        _resident.clear()  # before loading: two large models may not fit
        backbone = load_backbone(config, frozen=True, engine=engine or InProcessEngine())
    backbone.eval_batch_tokens = eval_batch_tokens(config.eval_batch_tokens, on_gpu=backbone.is_on_gpu)
    yield backbone
    _resident[key] = backbone.freeze()
