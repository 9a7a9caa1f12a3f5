"""Writes small classifiers with their predictions, and a manifest, as this version does, for later versions to read.

python tests/golden/stored_models.py FOLDER       once per release: tests/golden/release_0_1_0
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM

from cluster.store.manifest import Acceptance, FileEntry, Manifest
from pipelines.serving.loading import load_predictor
from stages.common.examples import Example
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.tfidf_classifier import TfidfClassifier
from tests.support.small_models import bert_tokenizer

MANIFEST = Manifest(
    step="pet/a/0",
    fingerprint="f" * 64,
    key={"config.value": 1, "code.stages.pet.stage": "0" * 64},
    files={"result.json": FileEntry(size=3, sha256="a" * 64)},
    upstream_digests={"data": "b" * 64},
    result={"test": {"accuracy": 0.5}},
    metrics={"train/loss": 0.25},
    run_id="r",
    seconds=1.5,
    committed_at=1.7e9,
    attempt=2,
    host="host",
    versions={"python": "3.11.7", "clozeline": "0.1.0"},
    provenance={
        "commit": None, "is_changed": None, "command": "clozeline run demo", "user": "ann", "host": "host"
    },
    acceptances=(
        Acceptance(user="ann@host", accepted_at=1.7e9, changes=("the code of x changed",), fingerprint="e" * 64),
    ),
)  # fmt: skip
LABELS = ("bad", "good")
TEXTS = {
    "the film was great": "good",
    "it was bad": "bad",
    "a dull story about two sisters": "bad",
    "clever and warm": "good",
}


def main(folder: Path) -> None:
    """Writes the folders `classifier` and `tfidf`, and `predictions.json`."""
    for name in ("classifier", "tfidf"):
        (folder / name).mkdir(parents=True)
    with tempfile.TemporaryDirectory() as encoder:
        tokenizer = bert_tokenizer()
        tokenizer.save_pretrained(encoder)
        torch.manual_seed(0)
        shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **shape)
        BertForMaskedLM(config).save_pretrained(encoder)
        student = StudentConfig(asset=encoder, max_length=32, precision="fp32")
        TextClassifier.from_encoder(student, LABELS, ("text",), 0).save(folder / "classifier")
    examples = [Example(text, {"text": text}, label) for text, label in TEXTS.items()]
    TfidfClassifier(LABELS, ("text",), "word").fit(examples).save(folder / "tfidf")
    predictions = {name: predict(folder / name, list(TEXTS)) for name in ("classifier", "tfidf")}
    (folder / "predictions.json").write_text(json.dumps({"texts": list(TEXTS), **predictions}, indent=1) + "\n")
    (folder / "manifest.json").write_bytes(MANIFEST.to_json())


def predict(folder: Path, texts: list[str]) -> list[dict[str, object]]:
    """Returns the predictions of a stored classifier."""
    predictor = load_predictor([folder])
    return predictor.predict([predictor.parse_row({"text": text}, text) for text in texts])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
