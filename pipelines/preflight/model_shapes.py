"""Reads the shape of a backbone, which the memory planner needs, from its config.json alone.

The model is built on torch's meta device, which takes no memory but seconds of imports. The result is cached in
`CLOZELINE_CACHE/shapes`, a small file per config.json.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.parallel.memory import ModelShape
from stages.common.assets.cache import cache_folder, is_cached, resolve
from stages.common.models.model_files import family_of, model_folder, translated
from stages.common.patterns.config import Family

if TYPE_CHECKING:
    from torch import nn

FORM = 2
"""Version of the files in the cache. Raise it if `ModelShape` or the counted values change."""
KEPT_INNER = {"silu": 1, "relu": 1, "gelu": 1, "gelu_new": 4, "gelu_pytorch_tanh": 1}
"""Inner tensors that an activation keeps for its backward pass. gelu_new consists of four products."""
GATED_TOO = 2
"""Inner tensors that the product of a gate keeps: both of its factors."""


def cached_shape(ref: str) -> ModelShape | None:
    """Returns the shape of a backbone if its config.json is on this machine, else None."""
    if not is_cached(ref):
        return None
    path = resolve(ref)
    if path.suffix == ".gguf" and not (translated(path) / "config.json").exists():
        return None
    return shape_of(model_folder(ref))


def shape_of(folder: Path) -> ModelShape:
    """Returns the shape of the model whose config.json is in `folder`.

    Raises:
        AssetError: it is missing, or not of a language model.
    """
    family = family_of(folder)
    content = (folder / "config.json").read_bytes()
    kept = cache_folder() / "shapes" / f"{hashlib.sha256(content).hexdigest()}.{FORM}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        payload = json.loads(kept.read_text())
        return ModelShape(**{**payload, "weights": tuple(payload["weights"])})
    shape = _count(folder, family)
    with suppress(OSError):  # Without a cache, the model is built again the next time.
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_name(f"{kept.name}.{os.getpid()}")
        draft.write_text(json.dumps(asdict(shape)))
        draft.replace(kept)
    return shape


def _count(folder: Path, family: Family) -> ModelShape:
    # For models that were not counted yet:
    from stages.common.models.meta_models import adapted_layer_sizes, meta_model  # noqa: PLC0415  (loads torch)

    model = meta_model(folder)
    weights = tuple(weight.numel() for weight in model.parameters())
    settings = getattr(model, "config").to_dict()  # noqa: B009
    kept, inner = _activation(model, settings)
    layers = _first(settings, "num_hidden_layers", "n_layer", "num_layers")
    return ModelShape(
        num_parameters=sum(weights),
        weights=weights,
        largest_module=max(
            sum(item.numel() for item in module.parameters(recurse=False)) for module in model.modules()
        ),
        num_layers=layers,
        num_decoder_layers=int(settings.get("num_decoder_layers") or layers) if family == "seq2seq" else 0,
        width=_first(settings, "hidden_size", "n_embd", "d_model"),
        inner=inner,
        num_heads=_first(settings, "num_attention_heads", "n_head", "num_heads"),
        vocabulary=_first(settings, "vocab_size"),
        kept_inner=kept,
        adapted=adapted_layer_sizes(model),
        reads_vocabulary=family != "causal",
    )


def _activation(model: nn.Module, settings: dict[str, Any]) -> tuple[int, int]:
    """Returns the number of inner tensors that a layer keeps, and the inner size."""
    width = _first(settings, "hidden_size", "n_embd", "d_model")
    inner = next((settings[name] for name in ("intermediate_size", "d_ff", "n_inner") if settings.get(name)), 4 * width)
    name = str(
        settings.get("hidden_act") or settings.get("activation_function") or settings.get("dense_act_fn") or "gelu"
    )
    is_gated = any(item.rpartition(".")[2] in ("gate_proj", "wi_1", "Wi") for item, _ in model.named_modules())
    return KEPT_INNER.get(name, 2) + (GATED_TOO if is_gated else 0), int(inner)


def _first(settings: dict[str, Any], *names: str) -> int:
    return int(next(settings[name] for name in names if settings.get(name)))
