"""Loads the tokenizer of a model, which reads texts of users as plain text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from stages.common.errors import AssetError


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False, **settings: Any) -> Any:
    """Loads a tokenizer. Special tokens in a text are text: also where the tokenizer is saved and loaded again.

    Args:
        folder: The folder of its model.
        trust_remote_code: Run Python code in the folder.
        settings: Settings of `AutoTokenizer.from_pretrained`.

    Raises:
        AssetError: it cannot be loaded, or it is not a fast tokenizer. Others do not return the offsets of tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, split_special_tokens=True, trust_remote_code=trust_remote_code, **settings
        )
    except (KeyError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise AssetError(
            f"the tokenizer in {folder} cannot be loaded ({reason}).",
            "Use a model whose tokenizer transformers includes; code in the folder of a model is not run unless a "
            "backbone has trust_remote_code: true.",
        ) from error
    if not tokenizer.is_fast:
        raise AssetError(
            f"the tokenizer in {folder} is not a fast one.",
            "Save it with tokenizer.json: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).",
        )
    return tokenizer
