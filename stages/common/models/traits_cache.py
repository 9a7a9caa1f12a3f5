"""Reads the traits of the model in a folder, which are derived once per config.json and version of transformers.

`examine` of stages/common/models/backbones/examination.py derives them from forward passes of a small copy of the
model. This module loads no torch, so a plan reads a result that is cached in `CLOZELINE_CACHE/traits`.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from stages.common.assets.cache import cache_folder
from stages.common.errors import AssetError
from stages.common.models.model_files import family_of, max_positions
from stages.common.models.remote_code import definition
from stages.common.models.traits import ModelTraits
from stages.common.patterns.config import Family

FORM = 1
"""Version of the files in the cache. Raise it if the examination changes."""
_known: dict[str, ModelTraits] = {}
"""Digest of a config -> traits, for this process."""


def folder_traits(folder: Path, *, trust_remote_code: bool = False) -> ModelTraits:
    """Returns the traits of the language model in `folder`, from the cache or from an examination, which loads torch.

    Raises:
        AssetError: the folder has no language model, or one of an architecture that transformers does not include.
    """
    return _traits(folder, family_of(folder), trust_remote_code)


def folder_max_positions(folder: Path, *, trust_remote_code: bool = False) -> int | None:
    """Returns the maximum number of tokens of the language model or encoder in `folder`; None if there is no limit."""
    if max_positions(folder, "all") is None:
        return None
    try:
        family: Family | Literal["encoder"] = family_of(folder)
    except AssetError:  # an encoder without an LM head
        family = "encoder"
    return max_positions(folder, _traits(folder, family, trust_remote_code).position_limit)


def _traits(folder: Path, family: Family | Literal["encoder"], trust_remote_code: bool) -> ModelTraits:
    content = definition(folder, trust_remote_code=trust_remote_code)
    key = hashlib.sha256(content + f"{family} {version('transformers')} {FORM}".encode()).hexdigest()
    if key not in _known:
        path = cache_folder() / "traits" / f"{key}.json"
        _known[key] = _read(path) or _examine(folder, family, trust_remote_code, path)
    return _known[key]


def _read(path: Path) -> ModelTraits | None:
    with suppress(OSError, ValueError, TypeError):
        return ModelTraits(**json.loads(path.read_text(encoding="utf-8")))
    return None


def _examine(folder: Path, family: Family | Literal["encoder"], trust_remote_code: bool, path: Path) -> ModelTraits:
    # For models that were not examined yet:
    from transformers import AutoConfig  # noqa: PLC0415  (loads torch)

    from stages.common.models.backbones.examination import examine, examine_encoder  # noqa: PLC0415  (the same)
    from stages.common.models.meta_models import language_model_class  # noqa: PLC0415  (the same)

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (KeyError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise AssetError(
            f"transformers cannot read the config in {folder} ({reason}).",
            "Use a model of an architecture that transformers includes.",
        ) from error
    if family == "encoder":
        traits = examine_encoder(config)
    else:
        model_class = language_model_class(folder, config, family, trust_remote_code=trust_remote_code)
        traits = examine(config, family, model_class)
    with suppress(OSError):  # Without a cache, the model is examined again the next time.
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(asdict(traits)), encoding="utf-8")
        draft.replace(path)
    return traits
