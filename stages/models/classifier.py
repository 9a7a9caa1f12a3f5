"""The final classifier: a small text encoder with a linear head. What people put into service."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.ensembles import members
from stages.errors import AssetError
from stages.measures.metrics import Score, softmax
from stages.models.encoders import EncoderConfig, TextEncoder
from stages.models.precision import default_device, wants_bf16
from stages.protocols import Recorder
from stages.tasks import Example
from stages.texts import assets
from stages.texts.data import load_examples
from stages.texts.logits import read_logits
from stages.training.loop import LoopConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class StudentConfig(EncoderConfig, frozen=True):
    """The encoder of the final classifier, and what of it is trained."""

    tune: Literal["full", "head"] = Field(
        "full", description="What is trained: full (all weights), or head (a linear head on the frozen encoder)."
    )
    head_strength: float = Field(
        1.0, gt=0, description="C of scikit-learn's LogisticRegression, for tune: head; higher fits closer."
    )


def check_loop(student: StudentConfig, loop: object | None) -> None:
    """Refuses a loop that nothing follows, and training without one.

    Raises:
        ValueError: names both fields.
    """
    if (loop is None) != (student.tune == "head"):
        raise ValueError("student.tune: head takes no loop, and full needs one. Mend student.tune or loop.")


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
    def fresh(cls, config: StudentConfig, labels: Sequence[str], fields: Sequence[str], seed: int) -> TextClassifier:
        """A pretrained encoder with a new head, whose weights follow from `seed`.

        Args:
            config: The encoder; with tune: head it is frozen, and the head reads vectors of unit length.
            labels: [C] labels, in the order of the logits.
            fields: Fields to read; those behind the first make up its pair.
            seed: Seed of the head.
        """
        import torch

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
        import torch
        from safetensors.torch import load_file

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
        self._write(folder, {"encoder": {"asset": asset, "identity": assets.identity(asset)}})

    def _write(self, folder: Path, more: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        save_file(self.head.state_dict(), folder / "head.safetensors")
        about = {"labels": self.labels, **self.encoder.about, "normalize": self.normalize, **more}
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

    def fit_head(self, features: Tensor, targets: Tensor, strength: float, weights: Tensor | None = None) -> None:
        """Fits the head on what `embed` gave: see stages/models/linear_head.py for the arguments."""
        import torch

        from stages.models.linear_head import fit

        weight, bias = fit(features, targets, strength, weights)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] logits, in the order of `examples`."""
        import torch

        pooled = self.encoder.embed(examples, recorder, phase, bf16=self.predicts_in_bf16)
        with torch.inference_mode():
            result: NDArray[np.float64] = self._head(pooled.to(self.head.weight.device)).double().cpu().numpy()
        return result

    def indices(self, examples: Sequence[Example]) -> Tensor:
        """[n] indices of the gold labels."""
        import torch

        return torch.tensor([self.labels.index(item.label or "") for item in examples])

    def _read(self, pooled: Tensor) -> Tensor:
        import torch.nn.functional as F  # noqa: N812

        return F.normalize(pooled, dim=1) if self.normalize else pooled

    def _head(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.head(self._read(pooled))
        return logits


def _encoder_folder(folder: Path, about: dict[str, Any]) -> Path:
    from stages.models.model_files import model_folder

    if "encoder" not in about:
        return folder
    asset = about["encoder"]["asset"]
    found = model_folder(asset)
    if assets.identity(asset) != about["encoder"]["identity"]:
        raise AssetError(
            f"{asset.partition('#')[0]} is not what the classifier in {folder} was fitted on.", "Fit it again."
        )
    return found


def dev_validation(
    student: TextClassifier, data: Path, loop: LoopConfig, recorder: Recorder
) -> Callable[[], tuple[float, float]] | None:
    """Accuracy and cross-entropy on the dev set, if `loop` stops early and there is one."""
    dev_set = load_examples(data / "dev.jsonl") if loop.early_stopping else []
    if not dev_set:
        return None

    import torch
    import torch.nn.functional as F  # noqa: N812

    gold = student.indices(dev_set)

    def validate() -> tuple[float, float]:
        logits = torch.from_numpy(student.predict(dev_set, recorder, "development set"))
        hits = logits.argmax(dim=1) == gold
        return float(hits.double().mean()), float(F.cross_entropy(logits, gold))

    return validate


def finish(student: TextClassifier, data: Path, out: Path, recorder: Recorder) -> Score:
    """What every stage that trains a classifier does last: tests it, writes it and what it got wrong.

    Args:
        student: The trained classifier.
        data: Files of the split stage.
        out: Gets `model/` and `test_logits.jsonl`.
        recorder: Gets the scores, the pictures `reliability` and `coverage`, and a table of the misclassified texts.
    """
    test = members.measure(student, student.labels, data, out, recorder)
    (out / "model").mkdir()
    student.save(out / "model")
    test_set = load_examples(data / "test.jsonl")
    logits = read_logits(out / "test_logits.jsonl", student.labels)
    _show_confidence(student, test_set, logits, test, recorder)
    guesses = [student.labels[index] for index in logits.argmax(axis=1)]
    wrong = [
        {**item.fields, "label": item.label, "predicted": guess, "confidence": round(float(row.max()), 4)}
        for item, guess, row in zip(test_set, guesses, softmax(logits), strict=True)
        if item.label != guess
    ]
    recorder.table("misclassified", sorted(wrong, key=lambda row: -row["confidence"])[:100])
    return test


def _show_confidence(
    student: TextClassifier, test_set: Sequence[Example], logits: NDArray[np.float64], test: Score, recorder: Recorder
) -> None:
    """Records what the confidence of [n, C] logits is worth."""
    from stages.measures import confidence, pictures

    probabilities, truth = softmax(logits), student.indices(test_set).numpy()
    recorder.figure("reliability", pictures.reliability(confidence.bins(probabilities, truth), test.ece or 0.0))
    recorder.figure("coverage", pictures.coverage(confidence.coverage(probabilities, truth)))
