"""Folders of models: which family lies in them, and GGUF files translated into such a folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from stages.errors import AssetError
from stages.patterns.encoding import Family
from stages.texts import assets

POSITIONS_AFTER_PAD = {"roberta", "xlm-roberta", "camembert", "mpnet"}
"""Models whose first position is pad_token_id + 1."""


def num_positions(folder: Path) -> int | None:
    """How many tokens the model in `folder` can read; None where its config sets no limit."""
    try:
        return room_in(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError):
        return None  # whoever loads it will complain


def room_in(config: Mapping[str, Any]) -> int | None:
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
    path = assets.resolve(ref)
    if path.suffix != ".gguf":
        return path
    target = translated(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if not (target / "config.json").exists():
            _translate_gguf(path, target)
    return target


def translated(path: Path) -> Path:
    """The folder into which a GGUF file is translated."""
    return assets.cache_folder() / "from_gguf" / assets.content_digest(path)[:20]


def _translate_gguf(path: Path, target: Path) -> None:
    """Dequantises a GGUF file to float32 safetensors. transformers refuses to save what it loaded from GGUF, so the
    weights move into a fresh model without the quantisation's mark."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    config = type(loaded.config)(
        **{
            k: v
            for k, v in loaded.config.to_dict().items()
            if k not in ("quantization_config", "architectures", "dtype")
        }
    )
    fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as temporary:
        folder = Path(temporary) / "model"
        fresh.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.move(folder, target)
