"""Models that earlier releases wrote are read, or rejected in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cluster.store.location import open_store
from cluster.store.manifest import FORMAT
from pipelines.serving.loading import load_predictor
from stages.common.errors import AssetError
from tests.golden.stored_models import MANIFEST, predict

RELEASES = sorted(Path(__file__).parent.glob("release_*"))


@pytest.mark.parametrize("name", ["classifier", "tfidf"])
@pytest.mark.parametrize("release", RELEASES, ids=lambda folder: folder.name)
def test_stored_model_predicts_as_the_release_that_wrote_it(release: Path, name: str) -> None:
    stored = json.loads((release / "predictions.json").read_text())
    for now, before in zip(predict(release / name, stored["texts"]), stored[name], strict=True):
        assert now["label"] == before["label"]
        assert now["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "file", "before", "after"),
    [
        ("classifier", "classifier.json", "vector_norm", "norm_of_another_version"),
        ("classifier", "classifier.json", '["bad", "good"]', '["bad", "good", "third"]'),
        ("classifier", "classifier.json", "{", "["),
        ("classifier", "config.json", '"bert"', '"unknown-kind"'),
        ("tfidf", "tfidf.json", "vocabulary", "terms_of_another_version"),
    ],
)
def test_model_of_another_version_is_rejected_in_one_sentence(
    name: str, file: str, before: str, after: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(RELEASES[-1] / name, tmp_path / name)
    text = (folder / file).read_text()
    assert before in text
    (folder / file).write_text(text.replace(before, after))
    with pytest.raises(AssetError) as caught:
        load_predictor([folder])
    assert str(folder) in caught.value.problem and "\n" not in caught.value.problem
    assert caught.value.remedy


def test_damaged_weights_are_rejected_in_one_sentence(tmp_path: Path) -> None:
    folder = shutil.copytree(RELEASES[-1] / "classifier", tmp_path / "classifier")
    (folder / "head.safetensors").write_bytes(b"cut")
    with pytest.raises(AssetError, match="is damaged, or another version of clozeline wrote it"):
        load_predictor([folder])


@pytest.mark.parametrize("release", RELEASES, ids=lambda folder: folder.name)
def test_manifest_of_a_release_is_read_or_named_as_one_of_another_version(release: Path, tmp_path: Path) -> None:
    stored = json.loads((release / "manifest.json").read_text())
    folder = tmp_path / MANIFEST.step / MANIFEST.fingerprint
    folder.mkdir(parents=True)
    shutil.copy(release / "manifest.json", folder)
    store = open_store(tmp_path)
    if stored["format"] == FORMAT:
        assert list(store.results(MANIFEST.step)) == [MANIFEST]
    else:
        assert "has format" in store.compare(MANIFEST.step, "").outdated
