"""Python code in the folder of a model ("remote code"): which models need it, and when it may run.

transformers calls it remote, because most of it comes from the Hugging Face hub. It can do anything on this machine, so
it runs only if a recipe sets `trust_remote_code: true` for the backbone. This module runs none of it.
"""

from __future__ import annotations

import json
from pathlib import Path

from stages.common.errors import AssetError

OWN_CLASSIFIER = "ClozelineForSequenceClassification"
"""Classifiers of this project have code in their folder for others; here, the module of the project is used."""


def code_files(folder: Path) -> list[Path]:
    """Returns the Python files in the folder of a model."""
    return sorted(folder.rglob("*.py"))


def definition(folder: Path, *, trust_remote_code: bool) -> bytes:
    """Returns what defines the architecture of the model in `folder`: its config, and its code if that is used."""
    parts = [(folder / "config.json").read_bytes()]
    for path in code_files(folder) if trust_remote_code else ():
        parts += [path.relative_to(folder).as_posix().encode(), path.read_bytes()]
    return b"\0".join(parts)


def check_code(folder: Path, *, trust_remote_code: bool) -> None:
    """Checks that the code that a model needs may run, and is in its folder.

    Raises:
        AssetError: it may not run, it is missing, or it is in another repository, so that it is not part of the key.
    """
    references = _references(folder)
    if not trust_remote_code:
        if _needs_code(folder, references):
            raise AssetError(
                f"{folder} needs Python code in its folder ({references[0].partition('.')[0]}.py), which is not run "
                "by default because it can do anything on this machine.",
                "Read the code, and set trust_remote_code: true next to asset to run it.",
            )
        return
    for reference in references:
        repository, _, name = reference.rpartition("--")
        file = f"{name.partition('.')[0]}.py"
        if repository:
            raise AssetError(
                f"the code of {folder} is in another repository ({reference}).",
                f'Copy {file} of {repository} into the folder, and remove "{repository}--" from its auto_map.',
            )
        if not (folder / file).is_file():
            raise AssetError(
                f"{folder} has no {file}, the code of its model.",
                f"Add the file, or delete {folder} to fetch it again.",
            )


def refuse_code(folder: Path) -> None:
    """Checks that an encoder needs no code in its folder: the files of a classifier would need it, too.

    Raises:
        AssetError: it needs some.
    """
    if _needs_code(folder, _references(folder)):
        raise AssetError(
            f"{folder} needs Python code in its folder, which is not run for encoders.",
            "Use an encoder of an architecture that transformers includes.",
        )


def _references(folder: Path) -> list[str]:
    """Returns the classes in the folder of a model that transformers would load, as `module.Class`."""
    found: list[str] = []
    for name in ("config.json", "tokenizer_config.json"):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            auto_map = content.get("auto_map") or {}
        except (OSError, ValueError, AttributeError):
            continue  # loading the model raises an error
        for item in auto_map.values():
            found += [str(one) for one in (item if isinstance(item, list | tuple) else [item]) if one]
    return list(dict.fromkeys(found))


def _needs_code(folder: Path, references: list[str]) -> bool:
    """Returns True if the class or the config of a model is not part of transformers."""
    if not references or not (folder / "config.json").exists():
        return False
    # For the few models with code:
    import transformers  # noqa: PLC0415  (takes seconds)
    from transformers import CONFIG_MAPPING  # noqa: PLC0415  (the same)

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = (config.get("architectures") or [""])[0]
    if architecture == OWN_CLASSIFIER:
        return False
    if config.get("model_type") not in CONFIG_MAPPING:
        return bool(config.get("auto_map"))
    return bool(config.get("auto_map")) and bool(architecture) and not hasattr(transformers, architecture)
