"""A text encoder with a linear head: the student, the baseline and the probe, and what users deploy.

A folder has `classifier.json`, `head.safetensors` and either the encoder itself or a reference to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.common.assets.cache import identity
from stages.common.errors import AssetError
from stages.common.examples import Example
from stages.common.models.batching import default_device, wants_bf16
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.linear_heads import fit_logistic_regression
from stages.common.models.model_files import model_folder
from stages.common.protocols import Recorder


class TextClassifier:
    """encoder -> [B, D] -> linear head -> [B, C] logits."""

    def __init__(self, encoder: TextEncoder, head: Any, labels: Sequence[str], *, normalize: bool = False) -> None:
        self.encoder = encoder
        self.head = head.to(default_device())
        self.labels = tuple(labels)
        self.normalize = normalize
        """Whether the head reads vectors of unit length."""
        self.trains_in_bf16 = False
        self.predicts_in_bf16 = False

    @classmethod
    def from_encoder(
        cls, config: StudentConfig, labels: Sequence[str], fields: Sequence[str], seed: int
    ) -> TextClassifier:
        """A pretrained encoder with a new head, whose weights follow from `seed`.

        Args:
            config: The encoder; with tune: head it is frozen, and the head reads vectors of unit length.
            labels: [C] labels, in the order of the logits.
            fields: Fields to read; those behind the first make up its pair.
            seed: Seed of the head.
        """

        torch.manual_seed(seed)  # before the encoder: a pooler that the file lacks is drawn too
        encoder = TextEncoder.of(config, fields)
        encoder.model.requires_grad_(config.tune == "full")
        head = torch.nn.Linear(encoder.width, len(labels))
        classifier = cls(encoder, head, labels, normalize=config.tune == "head")
        classifier.trains_in_bf16 = wants_bf16(config.precision)
        return classifier

    @classmethod
    def load(cls, folder: Path) -> TextClassifier:
        """The classifier that `save` or `save_head` wrote.

        Raises:
            AssetError: the encoder that the head was fitted on is out of reach, or is not the same any more.
        """

        about = json.loads((folder / "classifier.json").read_text())
        encoder = TextEncoder.load(_encoder_folder(folder, about), about)
        encoder.model.eval()
        head = torch.nn.Linear(encoder.width, len(about["labels"]))
        head.load_state_dict(load_file(folder / "head.safetensors"))
        return cls(encoder, head, about["labels"], normalize=about.get("normalize", False))

    def save(self, folder: Path) -> None:
        """Writes encoder, tokenizer and head; no other file of the project is needed to load them."""
        self.encoder.save(folder)
        self._write(folder, {})

    def save_head(self, folder: Path, asset: str) -> None:
        """Writes the head and the reference of the encoder, which `load` fetches again."""
        self._write(folder, {"encoder": {"asset": asset, "identity": identity(asset)}})

    def _write(self, folder: Path, more: dict[str, Any]) -> None:

        save_file(self.head.state_dict(), folder / "head.safetensors")
        about = {"labels": self.labels, **self.encoder.metadata, "normalize": self.normalize, **more}
        (folder / "classifier.json").write_text(json.dumps(about, ensure_ascii=False) + "\n")

    @property
    def fields(self) -> tuple[str, ...]:
        """The one or two fields of an example that are read."""
        return self.encoder.fields

    @property
    def parameters(self) -> dict[str, Any]:
        """Name -> trainable parameter. The encoder's pooler is left out: nothing reads it."""
        named = {f"encoder.{name}": p for name, p in self.encoder.model.named_parameters() if "pooler" not in name}
        named |= {f"head.{name}": p for name, p in self.head.named_parameters()}
        return {name: p for name, p in named.items() if p.requires_grad}

    def train_mode(self, on: bool) -> None:
        """Switches dropout on or off."""
        self.encoder.model.train(on)

    def logits(self, examples: Sequence[Example]) -> Tensor:
        """[B, C] logits, with gradients where the caller allows them."""
        bf16 = self.encoder.model.training and self.trains_in_bf16
        return self._head(self.encoder.pooled(examples, bf16=bf16))

    def embed(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> Tensor:
        """[n, D] what the head reads of each text, in the order of `examples`: to be embedded once."""
        return self._read(self.encoder.embed(examples, recorder, phase, bf16=self.trains_in_bf16))

    def fit_head(
        self, features: Tensor, targets: Tensor, regularization_c: float, weights: Tensor | None = None
    ) -> None:
        """Fits the head on what `embed` gave: see stages/common/models/linear_heads.py for the arguments."""

        weight, bias = fit_logistic_regression(features, targets, regularization_c, weights)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] logits, in the order of `examples`."""

        pooled = self.encoder.embed(examples, recorder, phase, bf16=self.predicts_in_bf16)
        with torch.inference_mode():
            result: NDArray[np.float64] = self._head(pooled.to(self.head.weight.device)).double().cpu().numpy()
        return result

    def indices(self, examples: Sequence[Example]) -> Tensor:
        """[n] indices of the gold labels."""

        return torch.tensor([self.labels.index(item.label or "") for item in examples])

    def _read(self, pooled: Tensor) -> Tensor:

        return F.normalize(pooled, dim=1) if self.normalize else pooled

    def _head(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.head(self._read(pooled))
        return logits


def _encoder_folder(folder: Path, metadata: dict[str, Any]) -> Path:

    if "encoder" not in metadata:
        return folder
    asset = metadata["encoder"]["asset"]
    found = model_folder(asset)
    if identity(asset) != metadata["encoder"]["identity"]:
        raise AssetError(
            f"{asset.partition('#')[0]} is not what the classifier in {folder} was fitted on.", "Fit it again."
        )
    return found
