"""The folder of a backbone: that of its model, or of the model into which its adapter was merged.

An adapter is merged once, into a new folder of the cache. So a backbone with an adapter is a model like any other: it
can be examined, sized, trained and partitioned among workers.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from filelock import FileLock

from stages.common.assets.cache import cache_folder, identity, is_cached, resolve
from stages.common.errors import InputError
from stages.common.models.adapter_files import check_adapter
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.model_files import is_translated, model_folder
from stages.common.models.remote_code import check_code

FORM = 1
"""Version of the merged folders. Raise it if merging changes."""


def backbone_folder(config: BackboneConfig) -> Path:
    """Returns the local folder of a backbone. An adapter is merged into the cache on first use.

    Raises:
        AssetError: the model needs code that may not run, or the adapter cannot be merged into it.
    """
    base = model_folder(config.asset)
    check_code(base, trust_remote_code=config.trust_remote_code)
    if config.adapter is None:
        return base
    adapter = resolve(config.adapter)
    check_adapter(adapter)
    target = _merged(config)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if not target.exists():
            from stages.common.models.backbones.adapters import merge_adapter  # noqa: PLC0415  (loads PEFT)

            merge_adapter(base, adapter, target, trust_remote_code=config.trust_remote_code)
    return target


def prepare(config: str) -> int:
    """Makes the folder of a backbone, as the only task of a process. Returns the exit status of that process.

    Writes problem and remedy of an error to standard output.

    Args:
        config: A `BackboneConfig` in JSON.
    """
    try:
        backbone_folder(BackboneConfig.model_validate_json(config))
    except InputError as error:
        sys.stdout.write(json.dumps([error.problem, error.remedy]))
        return 1
    return 0


def is_ready(config: BackboneConfig) -> bool:
    """Returns True if a backbone can be read without a download, and without translating or merging it."""
    if not is_cached(config.asset) or not is_translated(resolve(config.asset)):
        return False
    return config.adapter is None or (is_cached(config.adapter) and _merged(config).exists())


def backbone_identity(config: BackboneConfig) -> str:
    """Returns what makes two backbones equal: their model, their adapter, and whether code of the model is used."""
    parts = [identity(config.asset)]
    parts += [f"adapter {identity(config.adapter)}"] if config.adapter else []
    parts += ["with its code"] if config.trust_remote_code else []
    return " ".join(parts)


def _merged(config: BackboneConfig) -> Path:
    name = hashlib.sha256(f"{backbone_identity(config)} {FORM}".encode()).hexdigest()[:20]
    return cache_folder() / "merged" / name
