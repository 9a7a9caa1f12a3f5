"""A text encoder with a linear head: the student, the baseline and the probe, and what users deploy.

A folder has `classifier.json` and either all weights, tokenizer and code (modeling_clozeline.py), so that transformers
loads it too, or a reference to the encoder and the head in `head.safetensors`. Letters in names of tensors: B examples
of a batch, n examples, C labels, D width.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from stages.common.assets.cache import identity
from stages.common.config import MULTI_LABEL, SINGLE_LABEL, ProblemType
from stages.common.errors import AssetError
from stages.common.examples import Example
from stages.common.models.backbones.partitioned import complete_state_dict
from stages.common.models.batching import default_device, wants_bf16
from stages.common.models.config import Precision
from stages.common.models.encoders import modeling_clozeline
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.modeling_clozeline import (
    ClozelineConfig,
    ClozelineForSequenceClassification,
    ClozelinePipeline,
)
from stages.common.models.encoders.pair_encoder import PairEncoder, encoder_class
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.linear_heads import fit_logistic_regression
from stages.common.models.model_files import model_folder
from stages.common.problems import problem_of
from stages.common.protocols import Recorder

CLASSIFIER_FILE = "classifier.json"
WEIGHTS_FILE, HEAD_FILE = "model.safetensors", "head.safetensors"
"""All weights of a classifier; the weights of its head, without those of the encoder."""
TRAINED_VECTOR_NORM = 8.0
"""Length of the vectors of a text for a head that is trained step by step."""


class TextClassifier:
    """encoder -> [B, D] -> linear head -> [B, C] logits."""

    def __init__(
        self,
        encoder: TextEncoder,
        head: torch.nn.Linear,
        labels: Sequence[str],
        *,
        vector_norm: float | None = 1.0,
        problem_type: ProblemType = SINGLE_LABEL,
    ) -> None:
        self.problem = problem_of(labels, problem_type)
        self.encoder = encoder
        self.head = head.to(default_device())
        self.labels = tuple(labels)
        self.vector_norm = vector_norm
        """Length of the vectors that the head reads; None: that of the encoder's vectors."""
        self.precision: Precision = "fp32"
        """What it computes in while it, or its head, is trained."""
        self.predicts_in_bf16 = False

    @classmethod
    def from_encoder(
        cls,
        config: StudentConfig,
        labels: Sequence[str],
        fields: Sequence[str],
        seed: int,
        *,
        problem_type: ProblemType = SINGLE_LABEL,
        kind: type[TextEncoder] = TextEncoder,
    ) -> TextClassifier:
        """Loads a pretrained encoder and adds a new head.

        Args:
            config: The encoder. With tune: head it is frozen, and the head reads vectors of unit length. A head that is
                trained reads longer ones, with which it needs fewer steps.
            labels: [C] labels, in the order of the logits.
            fields: Fields to read: the first is one text, all others together are the second text of a pair.
            seed: Seed of the head.
            problem_type: One label per example, or any number.
            kind: How the encoder reads pairs. The vectors of a PairEncoder have lengths that count.
        """
        torch.manual_seed(seed)  # before the encoder: a pooler without saved weights is drawn too
        encoder = kind.of(config, fields)
        encoder.model.requires_grad_(config.tune == "full")
        head = torch.nn.Linear(encoder.width, len(labels))
        norm: float | None = 1.0 if config.tune == "head" else TRAINED_VECTOR_NORM
        if isinstance(encoder, PairEncoder):
            norm = None
        classifier = cls(encoder, head, labels, vector_norm=norm, problem_type=problem_type)
        classifier.precision = config.precision
        return classifier

    @classmethod
    def load(cls, folder: Path) -> TextClassifier:
        """Loads the classifier that `save` or `save_head` wrote.

        Raises:
            AssetError: the encoder that the head was fitted on is unreachable, or has changed.
        """
        metadata = json.loads((folder / CLASSIFIER_FILE).read_text(encoding="utf-8"))
        encoder = encoder_class(metadata).load(_encoder_folder(folder, metadata), metadata)
        encoder.model.eval()
        head = torch.nn.Linear(encoder.width, len(metadata["labels"]))
        head.load_state_dict(_head_weights(folder))
        problem_type = metadata.get("problem_type", SINGLE_LABEL)
        norm = metadata["vector_norm"]
        classifier = cls(encoder, head, metadata["labels"], vector_norm=norm, problem_type=problem_type)
        classifier.precision = metadata.get("precision", "fp32")
        return classifier

    def save(self, folder: Path) -> None:
        """Writes all weights, tokenizer, labels and code; transformers needs no other file to load them."""
        with torch.device("meta"):
            model = ClozelineForSequenceClassification(self._config())
        model.encoder, model.head = self.encoder.model, self.head
        model.save_pretrained(folder, state_dict=complete_state_dict(model))
        self.encoder.tokenizer.save_pretrained(folder)
        code = Path(str(modeling_clozeline.__file__))
        shutil.copyfile(code, folder / code.name)
        self._write(folder, {})

    def save_head(self, folder: Path, asset: str) -> None:
        """Writes the head and the reference of the encoder, which `load` resolves."""
        save_file(self.head.state_dict(), folder / HEAD_FILE)
        self._write(folder, {"encoder": {"asset": asset, "identity": identity(asset)}})

    def _config(self) -> ClozelineConfig:
        """Returns the config with which transformers loads the classifier and the pipeline."""
        assert self.vector_norm is not None, "a head that compares two vectors is not a model of transformers"
        encoder, module = self.encoder, modeling_clozeline.__name__.rpartition(".")[2]
        classes = {
            "AutoConfig": ClozelineConfig,
            "AutoModelForSequenceClassification": ClozelineForSequenceClassification,
        }
        pipeline = {"impl": f"{module}.{ClozelinePipeline.__name__}", "pt": ["AutoModelForSequenceClassification"]}
        settings = {**encoder.model.config.to_dict(), "architectures": [type(encoder.model).__name__]}
        settings.pop("_name_or_path", None)  # a path of this machine
        return ClozelineConfig(
            encoder=settings,
            pooling=encoder.pooling,
            prefix=encoder.prefix,
            separator=encoder.separator,
            max_tokens=encoder.max_length,
            vector_norm=self.vector_norm,
            problem_type=MULTI_LABEL if self.problem.problem_type == MULTI_LABEL else SINGLE_LABEL,
            id2label=dict(enumerate(self.labels)),
            label2id={label: number for number, label in enumerate(self.labels)},
            auto_map={name: f"{module}.{item.__name__}" for name, item in classes.items()},
            custom_pipelines={"text-classification": pipeline},
        )

    def _write(self, folder: Path, more: dict[str, Any]) -> None:
        metadata = {
            "labels": self.labels,
            "problem_type": self.problem.problem_type,
            **self.encoder.metadata,
            "vector_norm": self.vector_norm,
            "precision": self.precision,
            **more,
        }
        (folder / CLASSIFIER_FILE).write_text(json.dumps(metadata, ensure_ascii=False) + "\n", encoding="utf-8")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of an example that are read."""
        return self.encoder.fields

    @property
    def trains_in_bf16(self) -> bool:
        """True if it computes in bfloat16 during training."""
        return wants_bf16(self.precision)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Name -> trainable parameter, without the encoder's pooler, which is not used."""
        named = {f"encoder.{name}": p for name, p in self.encoder.model.named_parameters() if "pooler" not in name}
        named |= {f"head.{name}": p for name, p in self.head.named_parameters()}
        return {name: p for name, p in named.items() if p.requires_grad}

    @property
    def num_parameters(self) -> int:
        """Number of parameters, trained or frozen, without the encoder's pooler, which is not used."""
        encoder = [item for name, item in self.encoder.model.named_parameters() if "pooler" not in name]
        return sum(int(item.numel()) for item in (*encoder, *self.head.parameters()))

    def train_mode(self, on: bool) -> None:
        """Switches dropout on or off."""
        self.encoder.model.train(on)

    def logits(self, examples: Sequence[Example]) -> Tensor:
        """Returns logits, [B, C], with gradients if the caller enables them."""
        bf16 = self.encoder.model.training and self.trains_in_bf16
        return self._apply_head(self.encoder.pooled(examples, bf16=bf16))

    def embed(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> Tensor:
        """Returns the features that the head reads, [n, D], in the order of `examples`."""
        return self._normalized(self.encoder.embed(examples, recorder, phase, bf16=self.trains_in_bf16))

    def fit_head(
        self, features: Tensor, targets: Tensor, regularization_c: float, weights: Tensor | None = None
    ) -> None:
        """Fits the head to features from `embed`; see `fit_logistic_regression` for the arguments."""
        fitted = fit_logistic_regression(
            features, targets, regularization_c, weights, problem_type=self.problem.problem_type
        )
        with torch.no_grad():
            self.head.weight.copy_(fitted.weight)
            self.head.bias.copy_(fitted.bias)

    def add_bias(self, bias_C: NDArray[np.float64]) -> None:
        """Adds to the bias of the head."""
        with torch.no_grad():
            self.head.bias.add_(torch.from_numpy(bias_C).to(self.head.bias))

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns logits, [n, C], in the order of `examples`."""
        pooled_nD = self.encoder.embed(examples, recorder, phase, bf16=self.predicts_in_bf16)
        with torch.inference_mode():
            logits: NDArray[np.float64] = self._apply_head(pooled_nD.to(self.head.weight.device)).double().cpu().numpy()
        return logits

    def _normalized(self, pooled_BD: Tensor) -> Tensor:
        return pooled_BD if self.vector_norm is None else F.normalize(pooled_BD, dim=1) * self.vector_norm

    def _apply_head(self, pooled_BD: Tensor) -> Tensor:
        logits_BC: Tensor = self.head(self._normalized(pooled_BD))
        return logits_BC


def _head_weights(folder: Path) -> dict[str, Tensor]:
    """Returns weight and bias of the head of a classifier."""
    if (folder / HEAD_FILE).exists():
        path, prefix = folder / HEAD_FILE, ""
    else:
        path, prefix = folder / WEIGHTS_FILE, "head."
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(prefix + name) for name in ("weight", "bias")}


def _encoder_folder(folder: Path, metadata: dict[str, Any]) -> Path:
    if "encoder" not in metadata:
        return folder
    asset = metadata["encoder"]["asset"]
    encoder_folder = model_folder(asset)
    # Earlier versions recorded the reference, if it has no pin.
    if metadata["encoder"]["identity"] not in (identity(asset), asset):
        raise AssetError(
            f"{asset.partition('#')[0]} has changed since the classifier in {folder} was fitted.",
            "Fit the classifier again.",
        )
    return encoder_folder
