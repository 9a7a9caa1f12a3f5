"""Checks the folder of a PEFT adapter without torch: its config, its kind, and its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.common.errors import AssetError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
NOT_MERGED = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT"}
)
"""Kinds of PEFT that add vectors to the input or to the attention of a model. Its weights stay the same."""


def is_adapter(folder: Path) -> bool:
    """Returns True if a folder has an adapter of PEFT."""
    return (folder / ADAPTER_CONFIG).exists()


def base_model(folder: Path) -> str:
    """Returns the name or the folder of the model that an adapter was trained on, as the adapter states it."""
    return str(read_config(folder).get("base_model_name_or_path") or "")


def check_adapter(folder: Path) -> None:
    """Checks that a folder has an adapter that can be merged into the weights of a model.

    Raises:
        AssetError: it has no adapter, one without weights that change those of a model, or pickled weights.
    """
    if not is_adapter(folder):
        raise AssetError(
            f"{folder} has no {ADAPTER_CONFIG}, so it is not an adapter of PEFT.",
            "Specify the folder that save_pretrained of PEFT wrote.",
        )
    kind = str(read_config(folder).get("peft_type") or "unknown")
    if kind.upper() in NOT_MERGED:
        raise AssetError(
            f"{folder} is an adapter of the kind {kind}, which cannot be merged into the weights of a model.",
            "Use an adapter that changes weights, such as LoRA, DoRA or IA3, or train a prompt (section prompts).",
        )
    if (folder / ADAPTER_WEIGHTS).exists():
        return
    pickled = sorted(path.name for path in folder.glob("adapter_model*.bin"))
    if pickled:
        raise AssetError(
            f"the weights in {folder} are a pickled file ({pickled[0]}), which can run any code when it is loaded.",
            f"Use an adapter with {ADAPTER_WEIGHTS}. To convert one that you trust, load it with PEFT and save it.",
        )
    raise AssetError(f"{folder} has no {ADAPTER_WEIGHTS}.", "Download the adapter again.")


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the settings of an adapter.

    Raises:
        AssetError: they cannot be read.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"{folder / ADAPTER_CONFIG} cannot be read.", "Download the adapter again.") from error
    return config if isinstance(config, dict) else {}
