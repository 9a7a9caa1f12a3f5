"""Merges an adapter of PEFT into the weights of a language model, and checks that nothing else changes.

The check is measured, not looked up by kind: the saved model must compute the same logits as the model with the adapter
next to it. That refuses adapters that act on some tokens only, and weights that a folder cannot hold.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stages.common.errors import AssetError
from stages.common.models.adapter_files import ADAPTER_WEIGHTS, base_model, read_config
from stages.common.models.backbones.weights import read_model
from stages.common.models.model_files import architecture_of, family_of
from stages.common.models.traits_cache import folder_traits
from stages.common.patterns.config import Family

TOLERANCE = 1e-3
"""Largest change of logits by merging, relative to the largest one. Rounding in float32 changes them by about 1e-6."""
NUM_TOKENS = 9
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "*.model", "*.tiktoken")
VOCABULARY_FILES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken")
"""A folder without any of these has no tokenizer of its own."""
OTHER_FILES = ("generation_config.json", "*.py", "*.jinja")


WRITTEN_TWICE = (".original_module.", ".modules_to_save.")
"""Parts of names. PEFT writes embeddings of a vocabulary that was resized also under the name of their module."""


def merge_adapter(base: Path, adapter: Path, target: Path, *, trust_remote_code: bool) -> None:
    """Writes a model with a merged adapter as the new folder `target`, in float32, with its tokenizer.

    Args:
        base: The folder of the model.
        adapter: The folder of the adapter, which `check_adapter` accepts.
        target: The new folder, which appears when it is complete.
        trust_remote_code: Run Python code in `base`.

    Raises:
        AssetError: the adapter does not fit the model, or merging changes what it computes.
        InputError: the architecture of the model is not supported.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT warns about is an error here, or has no effect on the logits
        _merge(base, adapter, target, trust_remote_code)


def _merge(base: Path, adapter: Path, target: Path, trust_remote_code: bool) -> None:
    family = family_of(base)
    folder_traits(base, trust_remote_code=trust_remote_code).check("score", architecture_of(base))
    model = read_model(base, torch.float32, trust_remote_code=trust_remote_code).eval()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        folder = Path(temporary) / "model"
        try:
            adapted = _attach(model, adapter)
            expected_LV = _logits(adapted, family)
        except AssetError:
            raise
        except _ERRORS as error:
            raise _unfit(base, adapter, _reason(error)) from error
        try:
            merged = adapted.merge_and_unload(safe_merge=True)
        except _ERRORS as error:
            raise _not_merged(adapter, _reason(error)) from error
        _untie(merged)
        merged.save_pretrained(folder)
        _copy_files(base, adapter, folder)
        del model, adapted, merged
        gc.collect()  # two large models may not fit into memory
        saved = read_model(folder, torch.float32, trust_remote_code=trust_remote_code).eval()
        change = float((_logits(saved, family) - expected_LV).abs().max() / expected_LV.abs().max().clamp(min=1e-6))
        if not change < TOLERANCE:  # also if it is not a number
            raise _not_merged(adapter, f"logits change by {change:.1%}")
        folder.rename(target)


_ERRORS = (
    AttributeError,
    ImportError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)
"""What PEFT raises if a file is damaged, or an adapter does not fit a model."""


def _attach(model: Any, adapter: Path) -> Any:
    """Returns PEFT's model with the weights of an adapter.

    Raises:
        ValueError: the file lacks weights of the adapter, or has some for which the model has no layer.
    """
    rows = _rows_of_embeddings(model, adapter)
    if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)  # the adapter replaces all of them
    settings = _settings(adapter)
    settings.base_model_name_or_path = None  # otherwise PEFT warns of another folder
    adapted = get_peft_model(model, settings)
    mapping = getattr(model, "_checkpoint_conversion_mapping", None) or {}
    result = adapted.load_adapter(str(adapter), "default", torch_device="cpu", key_mapping=mapping)
    if result.missing_keys:
        raise ValueError(f"it has no weights for {result.missing_keys[0]}")
    unknown = [name for name in result.unexpected_keys if not any(part in name for part in WRITTEN_TWICE)]
    if unknown:
        raise ValueError(f"the model has no {unknown[0]}")
    return adapted.eval()


def _settings(adapter: Path) -> PeftConfig:
    """Returns the settings of an adapter.

    Raises:
        AssetError: PEFT would ignore one of them, because it is of a later version.
    """
    settings = PeftConfig.from_pretrained(str(adapter))
    known = {field.name for field in fields(settings)}
    unknown = [name for name, value in read_config(adapter).items() if value and name not in known]
    if unknown:
        raise AssetError(
            f"{adapter} has the setting {unknown[0]}, which PEFT {version('peft')} does not know.",
            "Install a later version of PEFT.",
        )
    return settings


def _rows_of_embeddings(model: Any, adapter: Path) -> int | None:
    """Returns the number of tokens of an adapter that has its own input embeddings; None if it has none."""
    table = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is table)
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
        key = f"base_model.model.{name}.weight"
        return int(file.get_slice(key).get_shape()[0]) if key in file.keys() else None  # noqa: SIM118


def _logits(model: Any, family: Family) -> Tensor:
    """Returns logits [L, V] of a text of some tokens."""
    text = torch.arange(7, 7 + NUM_TOKENS)[None] % model.config.get_text_config().vocab_size
    with torch.inference_mode():
        output = model(input_ids=text, **({"decoder_input_ids": text} if family == "seq2seq" else {}))
    logits_LV: Tensor = output.logits[0].float()
    return logits_LV


def _untie(model: Any) -> None:
    """Notes in the config of a model that its LM head has other weights than its input embeddings, if that is so."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is not table.weight and model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False


def _copy_files(base: Path, adapter: Path, folder: Path) -> None:
    """Copies tokenizer and code. An adapter with new tokens has a tokenizer of its own."""
    source = adapter if any(_matching(adapter, VOCABULARY_FILES)) else base
    for path in (*_matching(source, TOKENIZER_FILES), *_matching(base, OTHER_FILES)):
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def _matching(folder: Path, globs: tuple[str, ...]) -> Iterator[Path]:
    return (path for glob in globs for path in folder.glob(glob) if path.is_file())


def _reason(error: Exception) -> str:
    """Returns the line of an error that says what does not fit."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if line.startswith("size mismatch")), lines[0])[:240].rstrip(".")


def _unfit(base: Path, adapter: Path, reason: str) -> AssetError:
    trained_on = base_model(adapter)
    named = f"the model that it was trained on: {trained_on}." if trained_on else "the model that it was trained on."
    return AssetError(f"the adapter in {adapter} does not fit the model in {base} ({reason}).", f"Set asset to {named}")


def _not_merged(adapter: Path, reason: str) -> AssetError:
    return AssetError(
        f"the adapter in {adapter} cannot be merged into the weights of a model ({reason}).",
        "Use an adapter that changes weights in the same way for every token, such as LoRA, DoRA or IA3.",
    )
