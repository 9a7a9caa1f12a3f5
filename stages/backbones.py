"""One face for masked, causal and seq2seq language models: the logits of chosen words at the mask.

Letters in names of tensors: B batch, L length, N prompt vectors, D hidden width, V vocabulary, W words asked for.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock
from pydantic import BaseModel, Field

from stages import assets
from stages.errors import AssetError, InputError
from stages.patterns import Encoded, Family, mask_token_id

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Precision = Literal["auto", "fp32", "bf16"]


class BackboneConfig(BaseModel, frozen=True, extra="forbid"):
    """The pretrained language model, and how texts are cut for it."""

    asset: str = Field(
        description="Reference of the model: a folder or a GGUF file.", json_schema_extra={"identity": False}
    )
    max_length: int = Field(
        128, ge=8, description="Tokens of a pattern-formatted text at the most, without soft prompt."
    )
    precision: Precision = Field(
        "auto",
        description="Precision of frozen weights: fp32, bf16, or auto = bf16 where the processor computes in it.",
    )


@dataclass(slots=True)
class Batch:
    """Padded examples on one device. input_ids, attention_mask, segments: [B, L]; mask: [B], index of the mask."""

    input_ids: Tensor
    attention_mask: Tensor
    segments: Tensor
    mask: Tensor


class Backbone:
    """A language model with its tokenizer. `model` may be trained, frozen or carry LoRA weights: this class does not
    care.
    """

    def __init__(self, model: Any, tokenizer: Any, family: Family) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.family = family
        self.pad_id: int = _pad_id(tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the model's embeddings lie."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def width(self) -> int:
        """Width of the input embeddings, and so of a soft prompt's vectors."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    def freeze(self) -> Backbone:
        """Switches off all gradients and dropout; returns itself."""
        self.model.requires_grad_(False)
        self.model.eval()
        return self

    def batch(self, encoded: Sequence[Encoded]) -> Batch:
        """Pads to the longest example: on the left for causal models, so that the last position is the mask's."""
        import torch

        longest = max(len(item.ids) for item in encoded)
        ids = torch.full((len(encoded), longest), self.pad_id)
        attention = torch.zeros(len(encoded), longest, dtype=torch.long)
        segments = torch.zeros(len(encoded), longest, dtype=torch.long)
        mask = torch.zeros(len(encoded), dtype=torch.long)
        for row, item in enumerate(encoded):
            start = longest - len(item.ids) if self.family == "causal" else 0
            place = slice(start, start + len(item.ids))
            ids[row, place] = torch.tensor(item.ids)
            attention[row, place] = 1
            segments[row, place] = torch.tensor(item.segments)
            mask[row] = start + item.mask
        device = self.device
        return Batch(ids.to(device), attention.to(device), segments.to(device), mask.to(device))

    def word_logits(self, batch: Batch, word_ids: Sequence[int], prompt: Tensor | None = None) -> Tensor:
        """The raw logits of words at the mask.

        Args:
            batch: From `batch`.
            word_ids: [W] token ids.
            prompt: [N, D] soft prompt before the text, or [B, N, D] with one for each example.

        Returns:
            [B, W], float32.
        """
        wanted = list(word_ids)
        if self.family == "seq2seq":
            return self._seq2seq_logits(batch, prompt)[:, wanted].float()
        hidden_BD = self._hidden_at_mask(batch, prompt)
        if self.family == "causal":
            head = self.model.get_output_embeddings()
            bias = None if head.bias is None else head.bias[wanted].float()
            import torch.nn.functional as F  # noqa: N812

            return F.linear(hidden_BD.float(), head.weight[wanted].float(), bias)
        logits_BV: Tensor = _masked_head(self.model)(hidden_BD[:, None])[:, 0]
        return logits_BV[:, wanted].float()

    def _hidden_at_mask(self, batch: Batch, prompt: Tensor | None) -> Tensor:
        """[B, D] last hidden state at the mask; the LM head is applied there and nowhere else."""
        import torch

        arguments, shift = self._inputs(batch, prompt)
        hidden_BLD = _body(self.model)(**arguments).last_hidden_state
        rows = torch.arange(len(batch.mask), device=batch.mask.device)
        picked: Tensor = hidden_BLD[rows, batch.mask + shift]
        return picked

    def _inputs(self, batch: Batch, prompt: Tensor | None) -> tuple[dict[str, Any], int]:
        """Arguments of the model's body, and by how much the prompt shifts positions."""
        import torch

        arguments: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        shift = 0
        if prompt is not None:
            words_BLD = self.model.get_input_embeddings()(batch.input_ids)
            prompt_BND = prompt.to(words_BLD.dtype).expand(len(batch.mask), -1, -1)
            shift = prompt_BND.shape[1]
            ones = torch.ones(len(batch.mask), shift, dtype=torch.long, device=batch.mask.device)
            arguments = {
                "inputs_embeds": torch.cat([prompt_BND, words_BLD], dim=1),
                "attention_mask": torch.cat([ones, batch.attention_mask], dim=1),
            }
        if self.family == "seq2seq":
            return arguments, shift
        positions = (arguments["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        if self.family == "causal":
            arguments["use_cache"] = False
        if getattr(self.model.config, "model_type", "") in POSITIONS_AFTER_PAD:
            positions = positions + self.model.config.pad_token_id + 1
        arguments["position_ids"] = positions
        if self.family == "masked" and getattr(self.model.config, "type_vocab_size", 0) > 1:
            zeros = torch.zeros(len(batch.mask), shift, dtype=torch.long, device=batch.mask.device)
            arguments["token_type_ids"] = torch.cat([zeros, batch.segments], dim=1)
        return arguments, shift

    def _seq2seq_logits(self, batch: Batch, prompt: Tensor | None) -> Tensor:
        """[B, V] logits of the token behind the sentinel, where T5 writes what the mask hides."""
        import torch

        arguments, _ = self._inputs(batch, prompt)
        start = [self.model.config.decoder_start_token_id, mask_token_id(self.tokenizer, "seq2seq")]
        decoder_ids = torch.tensor([start], device=batch.mask.device).expand(len(batch.mask), -1)
        logits: Tensor = self.model(**arguments, decoder_input_ids=decoder_ids, use_cache=False).logits
        return logits[:, -1]


POSITIONS_AFTER_PAD = {"roberta", "xlm-roberta", "camembert", "mpnet"}
"""Models whose first position is pad_token_id + 1."""

_HEADS = ("cls", "lm_head", "predictions", "head")
_BODIES = ("model", "transformer", "gpt_neox")


def _masked_head(model: Any) -> Any:
    for name in _HEADS:
        if hasattr(model, name):
            return getattr(model, name)
    raise InputError(
        f"{type(model).__name__} has no masked-LM head that is known ({', '.join(_HEADS)}).",
        "Take a backbone of the BERT, RoBERTa or ALBERT family.",
    )


def _body(model: Any) -> Any:
    """The model without its LM head. `base_model` of transformers, which PEFT's wrapping does not hide."""
    return model.base_model


def _pad_id(tokenizer: Any) -> int:
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


# --- loading ------------------------------------------------------------------------------------------------------


def load(config: BackboneConfig, *, frozen: bool) -> Backbone:
    """Loads model and tokenizer; a frozen one in `config.precision`, one to be trained in float32.

    Raises:
        AssetError: the reference cannot be reached or holds no model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

    folder = model_folder(config.asset)
    family = family_of(folder)
    kinds = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
    dtype = torch.bfloat16 if frozen and wants_bf16(config.precision) else torch.float32
    model = kinds[family].from_pretrained(folder, dtype=dtype, attn_implementation=attention()).to(default_device())
    backbone = Backbone(model, AutoTokenizer.from_pretrained(folder), family)
    return backbone.freeze() if frozen else backbone


def default_device() -> str:
    """The GPU that this process sees, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def wants_bf16(precision: Precision) -> bool:
    """Whether to compute in bfloat16: as told, or where the processor multiplies matrices in it."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def attention() -> str:
    """Implementation of attention. On processors the plain one: at the lengths of patterns its backward pass is so much
    faster than the fused one's that a training step of SmolLM2-135M takes 0.9 s instead of 1.4 s."""
    return "sdpa" if default_device() == "cuda" else "eager"


def autocast(on: bool) -> AbstractContextManager[Any]:
    """Computes in bfloat16 over float32 weights, if `on`."""
    import torch

    return torch.autocast(default_device(), dtype=torch.bfloat16) if on else nullcontext()


def family_of(folder: Path) -> Family:
    """Reads the family from config.json.

    Raises:
        AssetError: no config.json, or an architecture without an LM head.
    """
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


def model_folder(ref: str) -> Path:
    """The local folder of a model; a GGUF file is translated once into the cache."""
    path = assets.resolve(ref)
    if path.suffix != ".gguf":
        return path
    target = assets.cache_folder() / "from_gguf" / assets.content_digest(path)[:20]
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if not (target / "config.json").exists():
            _translate_gguf(path, target)
    return target


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
