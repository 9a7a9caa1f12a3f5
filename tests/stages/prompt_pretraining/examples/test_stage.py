"""Tests of the stage that builds pretraining examples from a corpus in shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from stages.common.data.parquet_shards import Rows, examples_of
from stages.common.engine import InProcessEngine
from stages.common.errors import DataError
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.config import CONTENT_FREE_TEXTS
from stages.common.training.config import TrainingConfig
from stages.prompt_pretraining import stage as prompt_pretraining
from stages.prompt_pretraining.config import PretrainingConfig, SingleConfig
from stages.prompt_pretraining.examples import stage as pretraining_examples
from stages.prompt_pretraining.examples.config import PretrainingExamplesConfig
from stages.prompt_pretraining.examples.corpus_shards import allocate_examples, blocks, shard_indexer
from stages.prompt_pretraining.examples.stage import sentence_labeler, until_enough
from stages.prompt_pretraining.formats import CorpusRequirements, corpus_requirements
from stages.prompt_pretraining.pseudo_labels import ConfidentSentences
from tests.support.corpus_shards import SIZES, WORDS, corpus, document
from tests.support.small_models import backbone_config, write_lines
from tests.support.stage_runs import SILENT, Kept, run

pytestmark = pytest.mark.timeout(120)

SINGLE = SingleConfig(
    verbalizer={"rotten": ["bad", "terrible"], "fresh": ["good"]},
    pattern="{text} It was {mask}.", min_confidence=0.0, candidates_per_example=2, calibration="unlabeled",
)  # fmt: skip


def config(folder: Path, kind: str = "pair", **settings: Any) -> PretrainingExamplesConfig:
    values: dict[str, Any] = {"num_options": (2, 4), "num_held_out": 5, "seed": 3, "single": SINGLE}
    return PretrainingExamplesConfig(format=kind, **values | {"corpus": corpus(folder)} | settings)


def rows_by_shard(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: parquet.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}


def texts_of(row: dict[str, Any]) -> set[str]:
    return {text.partition(". ")[2] if text[1:3] == ". " else text for text in row["fields"].values() if text}


@pytest.mark.parametrize("kind", ["pair", "choice", "unified"])
def test_each_format_is_built_from_the_text_of_its_shard(kind: str, shards: Path, tmp_path: Path) -> None:
    settings = config(shards, kind)
    result = run(pretraining_examples, settings, pretraining_examples.Inputs(), tmp_path / "out")
    built = rows_by_shard(tmp_path / "out")
    assert list(built) == ["part-0", "part-1", "part-3"]
    assert sum(map(len, built.values())) == settings.num_examples == result.num_rows == 45
    assert (result.num_shards, result.num_small, result.num_documents) == (3, 1, 35)
    uids = [row["uid"] for rows in built.values() for row in rows]
    assert sorted(uids) == sorted(f"{kind}-{number}" for number in range(45))
    first = {"part-0": 0, "part-1": 12, "part-3": 16}
    for shard, rows in built.items():
        size = SIZES[int(shard[-1])]
        texts = {text for number in range(size) for text in sentences(first[shard] + number)}
        assert all(texts_of(row) <= texts for row in rows)
    if kind == "pair":
        assert set(Counter(row["label"] for rows in built.values() for row in rows).values()) == {15}


def sentences(number: int) -> list[str]:
    return [f"The {word} film number {number} was {word} again." for word in WORDS]


def test_sentences_are_labeled_once_and_until_there_are_enough(
    shards: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    write_lines(shards / "part-1b.jsonl", [{"text": document(2)}])
    labeled = {}
    for candidates in (2, 4):
        single = SINGLE.model_copy(update={"candidates_per_example": candidates})
        settings = config(shards, "single", backbone=backbone_config(backbone_folders["bert"]), single=single)
        recorder, out = Kept(), tmp_path / f"out{candidates}"
        result = run(pretraining_examples, settings, pretraining_examples.Inputs(), out, recorder)
        labeled[candidates] = rows = [row for part in rows_by_shard(out).values() for row in part]
        texts = [row["fields"]["text"] for row in rows]
        assert len(texts) == len(set(texts)) == result.num_rows <= 45 * candidates
        assert all(0.5 <= row["confidence"] <= 1 for row in rows)
        table = {row["label"]: row["labeled"] for row in recorder.tables["pseudo_labels"]}
        assert table == {label: sum(row["label"] == label for row in rows) for label in single.verbalizer}
        assert min(table.values()) > 0  # thanks to calibration
    assert len(labeled[4]) < sum(SIZES) * len(WORDS)


def test_until_enough_drops_repeated_sentences_and_stops() -> None:
    def rows_of(shard: str, *rows: tuple[str, str, float]) -> Rows:
        values = [
            {"uid": text, "fields": {"text": text}, "label": label, "confidence": confidence}
            for text, label, confidence in rows
        ]
        return Rows(shard, 0, pyarrow.Table.from_pylist(values))

    stream = iter([
        rows_of("a", ("One.", "x", 0.9), ("Two.", "x", 0.4)), rows_of("a", ("ONE.", "y", 0.9), ("Three.", "x", 0.8)),
        rows_of("b", ("two.", "y", 0.9)), rows_of("b", ("Four.", "y", 0.9), ("Five.", "y", 0.9)),
        rows_of("c", ("Six.", "y", 0.9)),
    ])  # fmt: skip
    sentences = ConfidentSentences({"x": [], "y": []})
    passed = list(until_enough(stream, sentences, set(), 0.5, 4))
    assert [(item.shard, item.first, [row["uid"] for row in item.rows.to_pylist()]) for item in passed] == [
        ("a", 0, ["One.", "Two."]), ("a", 2, ["Three."]), ("b", 0, []), ("b", 0, ["Four.", "Five."]),
    ]  # fmt: skip
    assert sentences.kept == {"x": ["One.", "Three."], "y": ["Four.", "Five."]}
    assert (sentences.num_seen, sentences.highest, sentences.total) == (5, 0.9, {"x": 3, "y": 2})
    assert len(list(stream)) == 1


@pytest.mark.parametrize("calibration", ["none", "contextual", "unlabeled"])
def test_all_workers_calibrate_with_the_same_reference(
    calibration: Any, shards: Path, backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not depend on the first block that a worker gets. The first shard alone has too few sentences."""
    single = SINGLE.model_copy(update={"calibration": calibration})
    settings = config(shards, "single", single=single, backbone=backbone_config(backbone_folders["bert"]))
    indices = [shard_indexer(settings.corpus, 1)(f"part-{n}") for n in range(4)]
    plan = allocate_examples(indices, CorpusRequirements(1, 1), 200, "this test")
    sizes: list[int] = []
    predict = ClozeClassifier.predict

    def counting(self: Any, examples: Any, *others: Any) -> Any:
        sizes.append(len(examples))
        return predict(self, examples, *others)

    monkeypatch.setattr(ClozeClassifier, "predict", counting)
    labelers = [sentence_labeler(settings, plan.parts) for _ in range(2)]
    assert sizes == {"none": [], "contextual": [len(CONTENT_FREE_TEXTS)] * 2, "unlabeled": [144] * 2}[calibration]
    all_blocks = [block for part in plan.parts for block in blocks(settings.corpus, 1, part)]
    assert len(plan.parts[0].example_range) < 144
    assert len(all_blocks) > 4
    forward = [labelers[0](block).rows for block in all_blocks]
    backward = [labelers[1](block).rows for block in reversed(all_blocks)]
    assert forward == backward[::-1]


class StoppingEngine(InProcessEngine):
    """Remembers the requested shards of the second pass, and stops after some blocks."""

    def __init__(self, checkpoint_dir: Path, max_blocks: int = 1000) -> None:
        super().__init__(checkpoint_dir)
        self.requested: list[str] = []
        self.max_blocks = max_blocks

    def map_batches(self, sources: Sequence[Any], read: Callable[[Any], Any], make: Callable[[], Any]) -> Iterator[Any]:
        results = super().map_batches(sources, read, make)
        if sources and isinstance(sources[0], str):  # the first pass
            yield from results
            return
        self.requested = [part.shard for part in sources]
        for number, item in enumerate(results):
            if number == self.max_blocks:
                raise KeyboardInterrupt
            yield item


@pytest.mark.parametrize("kind", ["choice", "single"])
def test_completed_shards_are_not_built_again(
    kind: str, shards: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    single = SINGLE.model_copy(update={"candidates_per_example": 3, "calibration": "unlabeled"})
    settings = config(shards, kind, backbone=backbone_config(backbone_folders["bert"]), single=single, num_held_out=60)
    checkpoints, inputs = tmp_path / "checkpoints", pretraining_examples.Inputs()
    for name in ("checkpoints", "out", "again", "uninterrupted"):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        pretraining_examples.run(settings, inputs, tmp_path / "out", SILENT, StoppingEngine(checkpoints, max_blocks=5))
    assert not list((tmp_path / "out").iterdir())
    done = {path.name: path.stat().st_ino for path in (checkpoints / "shards").glob("*.parquet")}
    assert {"part-0.parquet", "part-1.parquet"} <= set(done)
    assert "part-3.parquet" not in done
    engine = StoppingEngine(checkpoints)
    pretraining_examples.run(settings, inputs, tmp_path / "again", SILENT, engine)
    assert engine.requested == (["part-2", "part-3"] if kind == "single" else ["part-3"])
    assert {name: (tmp_path / "again" / name).stat().st_ino for name in done} == done
    pretraining_examples.run(settings, inputs, tmp_path / "uninterrupted", SILENT, InProcessEngine())
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "uninterrupted")
    assert len(bytes_of(tmp_path / "uninterrupted")) >= 3


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_corpus_without_a_large_shard_raises(shards: Path, tmp_path: Path) -> None:
    assert corpus_requirements("choice", 23).documents == 22
    settings = config(shards, "choice", num_options=(2, 23), corpus=corpus(shards, window=22))
    with pytest.raises(
        DataError, match=r"the format choice needs a shard with 22 documents .* no shard has more than 20"
    ):
        run(pretraining_examples, settings, pretraining_examples.Inputs(), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_row_without_the_column_raises_before_anything_is_built(shards: Path, tmp_path: Path) -> None:
    with (shards / "part-3.jsonl").open("a") as file:
        file.write('{"txt": "a"}\n')
    with pytest.raises(DataError, match=r"part-3\.jsonl, line 22: there is no column 'text'.*txt"):
        run(pretraining_examples, config(shards), pretraining_examples.Inputs(), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_too_few_confident_sentences_raise(shards: Path, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    single = SINGLE.model_copy(update={"min_confidence": 0.999, "calibration": "none"})
    settings = config(shards, "single", backbone=backbone_config(backbone_folders["bert"]), single=single)
    with pytest.raises(DataError, match="but 45 are needed") as caught:
        run(pretraining_examples, settings, pretraining_examples.Inputs(), tmp_path / "out")
    assert caught.value.key == "single.min_confidence"


@pytest.mark.parametrize("kind", ["pair", "single"])
def test_prompt_is_trained_on_built_examples(
    kind: str, shards: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = backbone_config(backbone_folders["bert"], 100)
    before = config(shards, kind, backbone=backbone)
    built = run(pretraining_examples, before, pretraining_examples.Inputs(), tmp_path / "built")
    settings = PretrainingConfig(
        backbone=backbone, format=kind, single=SINGLE, corpus=before.corpus, num_virtual_tokens=4, num_held_out=5,
        seed=8, training=TrainingConfig(learning_rate=0.05, batch_size=4, steps=2),
    )  # fmt: skip
    inputs = prompt_pretraining.Inputs(examples=tmp_path / "built")
    result = run(prompt_pretraining, settings, inputs, tmp_path / "out")
    assert (result.num_examples, result.held_out.num_examples) == (40, 5)
    assert result.num_documents == built.num_documents
    written = [json.loads(line) for line in (tmp_path / "out" / "examples.jsonl").read_text().splitlines()]
    all_examples = {json.dumps([item.fields, item.label]) for item in examples_of(tmp_path / "built")}
    assert {json.dumps([row["fields"], row["label"]]) for row in written} <= all_examples
    assert len(written) == 45
