"""Reads the folder of a model without torch: family, number of positions, and checks of its config.json.

Preflight checks call this module, so it imports no model library. Pickled weights are rejected, because loading them
can run code of their author.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from stages.common.assets.cache import cache_folder, content_digest, resolve
from stages.common.errors import AssetError, InputError
from stages.common.models.config import Pooling

if TYPE_CHECKING:  # so that no change of the patterns retrains a student
    from stages.common.patterns.config import Family


def architecture_of(folder: Path) -> str:
    """The class of the model in `folder`; empty where its config does not say."""
    return str((json.loads((folder / "config.json").read_text()).get("architectures") or [""])[0])


def check_pooling(pooling: Pooling, folder: Path) -> None:
    """Refuses a pooling that says nothing of a text.

    Raises:
        InputError: the first token of a causal model.
    """
    if not (folder / "config.json").exists():
        return  # whoever loads it will complain
    architecture = architecture_of(folder)
    if pooling == "cls" and architecture.endswith(("ForCausalLM", "LMHeadModel")):
        raise InputError(
            f"the first token of {architecture}, a causal model, reads nothing but itself.",
            "Take pooling: mean or last.",
            key="pooling",
        )


POSITIONS_AFTER_PAD = {"roberta", "xlm-roberta", "camembert", "mpnet"}
"""Models whose first position is pad_token_id + 1."""


def max_positions(folder: Path) -> int | None:
    """How many tokens the model in `folder` can read; None where its config sets no limit."""
    try:
        return config_max_positions(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError):
        return None  # whoever loads it will complain


def config_max_positions(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model with this config can read; None where it sets no limit."""
    room = config.get("max_position_embeddings") or config.get("n_positions")
    if room is None or config.get("model_type") == "t5":  # T5 counts distances
        return None
    return int(room) - (config["pad_token_id"] + 1 if config.get("model_type") in POSITIONS_AFTER_PAD else 0)


def family_of(folder: Path) -> Family:
    """Reads the family from config.json.

    Raises:
        AssetError: no config.json, an architecture without an LM head, or pickled weights.
    """
    refuse_pickled(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{folder} holds no readable config.json.", "Name the folder of a transformers model."
        ) from error
    architecture = (config.get("architectures") or ["?"])[0]
    if "ForMaskedLM" in architecture or architecture == "BertForPreTraining":
        return "masked"
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    if architecture.endswith("ForConditionalGeneration"):
        return "seq2seq"
    raise AssetError(
        f"{folder.name} is a {architecture}, which has no language-model head.",
        "Take a masked, causal or seq2seq language model as backbone.",
    )


def refuse_pickled(folder: Path) -> None:
    """A pickled file can run whatever its author likes in the process that reads it.

    Raises:
        AssetError: the weights in `folder` are pickled, and nothing else.
    """
    pickled = sorted(path.name for form in ("pytorch_model*.bin", "*.pt", "*.pth") for path in folder.glob(form))
    if pickled and not any(folder.glob("*.safetensors")):
        raise AssetError(
            f"the weights in {folder} are a pickled file ({pickled[0]}), which can run code of its author.",
            "Name a model whose weights are safetensors; one that you trust is converted by "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER).",
        )


def model_folder(ref: str) -> Path:
    """The local folder of a model; a GGUF file is translated once into the cache."""
    path = resolve(ref)
    if path.suffix != ".gguf":
        return path
    target = translated(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if not (target / "config.json").exists():
            from stages.common.models.gguf import translate_gguf  # transformers, for GGUF files only

            translate_gguf(path, target)
    return target


def translated(path: Path) -> Path:
    """The folder into which a GGUF file is translated."""
    return cache_folder() / "from_gguf" / content_digest(path)[:20]


def can_be_prefixed(model_type: str) -> bool:
    """Whether the attention of a masked model comes from transformers' register, by the `model_type` of its config."""

    name = model_type.replace("-", "_")
    spec = find_spec(f"transformers.models.{name}") and find_spec(f"transformers.models.{name}.modeling_{name}")
    return bool(spec and spec.origin and "ALL_ATTENTION_FUNCTIONS" in Path(spec.origin).read_text(encoding="utf-8"))


def check_deep(family: Family, model_type: str) -> None:
    """Refuses masked models whose attention cannot be given further keys and values.

    Raises:
        InputError: as it says.
    """
    if family == "masked" and not can_be_prefixed(model_type):
        raise InputError(
            f"{model_type} takes no deep prompt: its attention is not one of transformers' register.",
            "Take method: prompt_tuning or p_tuning, or a backbone of the BERT, RoBERTa, ALBERT, ELECTRA or "
            "ModernBERT family.",
        )
