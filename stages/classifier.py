"""The final classifier: a small encoder, mean-pooled, with a linear head. What people put into service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from stages.cloze import batches_by_length
from stages.data import load_examples
from stages.errors import AssetError
from stages.logits import write_logits
from stages.metrics import Score, score, softmax
from stages.precision import Precision, attention, autocast, default_device, wants_bf16
from stages.protocols import Recorder
from stages.tasks import Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PREDICT_TOKENS = 4096
"""Padded tokens of one batch without gradients."""


class StudentConfig(BaseModel, frozen=True, extra="forbid"):
    """The encoder of the final classifier."""

    asset: str = Field(
        description="Reference of the encoder: a folder of a transformers model.",
        json_schema_extra={"identity": False},
    )
    max_length: int = Field(128, ge=8, description="Tokens of a text (or pair of texts) at the most.")
    precision: Precision = Field("auto", description="What it computes in while it is trained; weights stay float32.")


class TextClassifier:
    """encoder -> mean over tokens -> linear head -> [B, C] logits."""

    def __init__(
        self,
        encoder: Any,
        tokenizer: Any,
        head: Any,
        labels: Sequence[str],
        fields: Sequence[str],
        max_length: int,
    ) -> None:
        device = default_device()
        self.encoder = encoder.to(device)
        self.tokenizer = tokenizer
        self.head = head.to(device)
        self.labels = tuple(labels)
        self.fields = tuple(fields)
        self.max_length = max_length
        self.trains_in_bf16 = False

    @classmethod
    def fresh(cls, config: StudentConfig, labels: Sequence[str], fields: Sequence[str], seed: int) -> TextClassifier:
        """A pretrained encoder with a new head, whose weights follow from `seed`.

        Args:
            config: The encoder.
            labels: [C] labels, in the order of the logits.
            fields: One field, or two that are read as a pair.
            seed: Seed of the head.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer

        from stages.assets import resolve

        folder = resolve(config.asset)
        if not (folder / "config.json").exists():
            raise AssetError(f"{config.asset} holds no config.json.", "Name the folder of a transformers encoder.")
        torch.manual_seed(seed)  # before the encoder: a pooler that the file lacks is drawn too
        encoder = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention())
        head = torch.nn.Linear(encoder.config.hidden_size, len(labels))
        student = cls(encoder, AutoTokenizer.from_pretrained(folder), head, labels, fields, config.max_length)
        student.trains_in_bf16 = wants_bf16(config.precision)
        return student

    @classmethod
    def load(cls, folder: Path) -> TextClassifier:
        """The classifier that `save` wrote."""
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModel, AutoTokenizer

        about = json.loads((folder / "classifier.json").read_text())
        encoder = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention())
        head = torch.nn.Linear(encoder.config.hidden_size, len(about["labels"]))
        head.load_state_dict(load_file(folder / "head.safetensors"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(encoder.eval(), tokenizer, head, about["labels"], about["fields"], about["max_length"])

    def save(self, folder: Path) -> None:
        """Writes encoder, tokenizer and head; no other file of the project is needed to load them."""
        from safetensors.torch import save_file

        self.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_file(self.head.state_dict(), folder / "head.safetensors")
        about = {"labels": self.labels, "fields": self.fields, "max_length": self.max_length}
        (folder / "classifier.json").write_text(json.dumps(about, ensure_ascii=False) + "\n")

    @property
    def parameters(self) -> dict[str, Any]:
        """Name -> parameter of encoder and head. The encoder's pooler is left out: nothing reads it."""
        named = {f"encoder.{name}": p for name, p in self.encoder.named_parameters() if "pooler" not in name}
        return named | {f"head.{name}": p for name, p in self.head.named_parameters()}

    def train_mode(self, on: bool) -> None:
        """Switches dropout on or off."""
        self.encoder.train(on)

    def texts(self, example: Example) -> tuple[str, ...]:
        """The one or two texts of an example that the classifier reads."""
        return tuple(example.fields[name] for name in self.fields)

    def logits(self, examples: Sequence[Example]) -> Tensor:
        """[B, C] logits, with gradients where the caller allows them."""
        texts = [self.texts(item) for item in examples]
        columns = [list(column) for column in zip(*texts, strict=True)]
        batch = self.tokenizer(*columns, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        batch = batch.to(self.head.weight.device)
        with autocast(self.encoder.training and self.trains_in_bf16):
            hidden_BLD = self.encoder(**batch).last_hidden_state.float()
        weight_BL1 = batch["attention_mask"][:, :, None].float()
        pooled_BD = (hidden_BLD * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1)
        logits: Tensor = self.head(pooled_BD)
        return logits

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] logits, in the order of `examples`."""
        import numpy as np
        import torch

        self.train_mode(False)
        result = np.zeros((len(examples), len(self.labels)))
        # characters stand for tokens here: only the order of lengths matters
        lengths = [1 + sum(len(text) for text in self.texts(item)) // 4 for item in examples]
        lengths = [min(length, self.max_length) for length in lengths]
        done = 0
        with torch.inference_mode():
            for rows in batches_by_length(lengths, PREDICT_TOKENS):
                result[rows] = self.logits([examples[row] for row in rows]).double().cpu().numpy()
                done += len(rows)
                recorder.progress(done, len(examples), phase=phase)
        return result


def finish(student: TextClassifier, data: Path, out: Path, recorder: Recorder) -> Score:
    """What every stage that trains a classifier does last: tests it, writes it and what it got wrong.

    Args:
        student: The trained classifier.
        data: Files of the split stage.
        out: Gets `model/` and `test_logits.jsonl`.
        recorder: Gets the scores, and a table of the misclassified texts.
    """
    test_set = load_examples(data / "test.jsonl")
    logits = student.predict(test_set, recorder, "test set")
    (out / "model").mkdir()
    student.save(out / "model")
    write_logits(out / "test_logits.jsonl", test_set, logits, student.labels)
    test = score(logits, [item.label or "" for item in test_set], student.labels)
    recorder.metric("test/accuracy", test.accuracy)
    recorder.metric("test/macro_f1", test.macro_f1)
    guesses = [student.labels[index] for index in logits.argmax(axis=1)]
    wrong = [
        {**item.fields, "label": item.label, "predicted": guess, "confidence": round(float(row.max()), 4)}
        for item, guess, row in zip(test_set, guesses, softmax(logits), strict=True)
        if item.label != guess
    ]
    recorder.table("misclassified", sorted(wrong, key=lambda row: -row["confidence"])[:100])
    return test
