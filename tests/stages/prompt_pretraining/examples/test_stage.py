"""Examples of prompt pretraining from a corpus in shards: how many of which shard, duplicates, and going on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from stages.common.data.config import CorpusConfig, Source
from stages.common.data.parquet_shards import Rows, examples_of
from stages.common.engine import InProcessEngine
from stages.common.errors import DataError
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.training.config import TrainingConfig
from stages.prompt_pretraining import stage as prompt_pretraining
from stages.prompt_pretraining.config import PretrainingConfig, SingleConfig
from stages.prompt_pretraining.examples import stage as pretraining_examples
from stages.prompt_pretraining.examples.config import PretrainingExamplesConfig
from stages.prompt_pretraining.examples.corpus_shards import allocate_examples, blocks, shard_indexer
from stages.prompt_pretraining.examples.stage import sentence_labeler, until_enough
from stages.prompt_pretraining.formats import CorpusRequirements, corpus_requirements
from stages.prompt_pretraining.pseudo_labels import ConfidentSentences
from tests.support.small_models import backbone_config, write_lines
from tests.support.stage_runs import SILENT, Kept, run

pytestmark = pytest.mark.timeout(120)

WORDS = ("warm", "clever", "dull", "bad")
LABELLING = SingleConfig(
    verbalizer={"rotten": ["bad", "terrible"], "fresh": ["good"]},
    pattern="{text} It was {mask}.", min_confidence=0.0, candidates_per_example=2, calibration="unlabeled",
)  # fmt: skip
ONE = CorpusRequirements(documents=2, sentences=3)
SIZES = (12, 3, 1, 20)
"""Documents of the four shards; the third has too few for any format but single."""


def document(number: int) -> str:
    """Four sentences of eight words."""
    return " ".join(f"The {word} film number {number} was {word} again." for word in WORDS)


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """A corpus in four shards of uneven size, one of them parquet; short texts lie between the documents."""
    folder = tmp_path / "pile"
    folder.mkdir()
    first = 0
    for number, size in enumerate(SIZES):
        rows = [{"text": document(first + row)} for row in range(size)]
        first += size
        rows.insert(1, {"text": "Too short."})
        if number == 1:
            parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "part-1.parquet")
        else:
            write_lines(folder / f"part-{number}.jsonl", rows)
    return folder


def corpus(folder: Path, **settings: Any) -> CorpusConfig:
    values = {"num_examples": 40, "max_sentence_words": 8, "window": 5}
    return CorpusConfig(source=Source(asset=str(folder)), **values | settings)


def config(folder: Path, kind: str = "pair", **settings: Any) -> PretrainingExamplesConfig:
    values: dict[str, Any] = {"num_options": (2, 4), "num_held_out": 5, "seed": 3, "single": LABELLING}
    return PretrainingExamplesConfig(format=kind, corpus=corpus(folder), **values | settings)


def rows_by_shard(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: parquet.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}


def texts_of(row: dict[str, Any]) -> set[str]:
    return {text.partition(". ")[2] if text[1:3] == ". " else text for text in row["fields"].values() if text}


# --- which shard makes how many ---------------------------------------------------------------------------------------


def surveyed(folder: Path, **settings: Any) -> list[Any]:
    found = corpus(folder, **settings)
    return [shard_indexer(found, 3)(path.name.partition(".")[0]) for path in sorted(folder.iterdir())]


def test_shards_make_as_much_as_they_have_documents(pile: Path) -> None:
    shares = allocate_examples(surveyed(pile), ONE, 70, "this test")
    assert [(part.shard, part.num_documents, part.example_range) for part in shares.parts] == [
        ("part-0", 12, range(24)), ("part-1", 3, range(24, 30)), ("part-3", 20, range(30, 70)),
    ]  # fmt: skip
    assert (shares.small, shares.num_documents, shares.num_duplicates) == (("part-2",), 35, 0)
    assert shares.num_read == sum(SIZES) + len(SIZES)
    few = allocate_examples(surveyed(pile), ONE, 2, "this test")
    assert sum(len(part.example_range) for part in few.parts) == 2, "a shard that makes nothing is no part"


def test_of_equal_documents_the_first_shard_s_counts(pile: Path) -> None:
    rows = [document(30), document(3).upper(), document(99)]
    write_lines(pile / "part-2.jsonl", [{"text": text} for text in (*rows, *rows)])
    shares = allocate_examples(surveyed(pile), ONE, 100, "this test")
    assert {part.shard: part.num_documents for part in shares.parts} == {
        "part-0": 12, "part-1": 3, "part-2": 2, "part-3": 19,
    }  # fmt: skip
    assert shares.num_duplicates == 5
    assert shares.num_documents == 36
    held = [text for block in blocks(corpus(pile), 2, shares.parts[2]) for text in block.texts]
    assert held == [document(30), document(99)]


def test_blocks_hold_a_window_at_the_most(pile: Path) -> None:
    last = allocate_examples(surveyed(pile), ONE, 70, "this test").parts[2]
    found = list(blocks(corpus(pile, window=7), 2, last))
    assert [len(block.texts) for block in found] == [6, 7, 7]
    assert [block.example_range for block in found] == [range(30, 42), range(42, 56), range(56, 70)]
    assert [text for block in found for text in block.texts] == [document(number) for number in range(16, 36)]
    assert [len(block.texts) for block in blocks(corpus(pile, window=7), 6, last)] == [6, 7, 7]
    assert [len(block.texts) for block in blocks(corpus(pile, window=7), 7, last)] == [10, 10], "enough goes first"


def test_shards_that_became_shorter_are_refused(pile: Path) -> None:
    last = allocate_examples(surveyed(pile), ONE, 70, "this test").parts[2]
    write_lines(pile / "part-3.jsonl", [{"text": document(number)} for number in range(18)])
    with pytest.raises(DataError, match=r"part-3 had 20 documents, and 1\d are left"):
        list(blocks(corpus(pile), 2, last))


# --- the stage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pair", "choice", "unified"])
def test_every_format_gets_as_many_as_are_wanted_of_its_own_shard_s_text(kind: str, pile: Path, tmp_path: Path) -> None:
    settings = config(pile, kind)
    result = run(pretraining_examples, settings, pretraining_examples.Inputs(), tmp_path / "out")
    found = rows_by_shard(tmp_path / "out")
    assert list(found) == ["part-0", "part-1", "part-3"]
    assert sum(map(len, found.values())) == settings.num_examples == result.num_rows == 45
    assert (result.num_shards, result.num_small, result.num_documents) == (3, 1, 35)
    uids = [row["uid"] for rows in found.values() for row in rows]
    assert sorted(uids) == sorted(f"{kind}-{number}" for number in range(45))
    first = {"part-0": 0, "part-1": 12, "part-3": 16}
    for shard, rows in found.items():
        size = SIZES[int(shard[-1])]
        own = {text for number in range(size) for text in sentences(first[shard] + number)}
        assert all(texts_of(row) <= own for row in rows)
    if kind == "pair":
        assert set(Counter(row["label"] for rows in found.values() for row in rows).values()) == {15}


def sentences(number: int) -> list[str]:
    return [f"The {word} film number {number} was {word} again." for word in WORDS]


def test_sentences_are_labelled_once_and_until_there_are_enough(
    pile: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    write_lines(pile / "part-1b.jsonl", [{"text": document(2)}])
    found = {}
    for candidates in (2, 4):
        single = LABELLING.model_copy(update={"candidates_per_example": candidates})
        settings = config(pile, "single", backbone=backbone_config(backbone_folders["bert"]), single=single)
        kept, out = Kept(), tmp_path / f"out{candidates}"
        result = run(pretraining_examples, settings, pretraining_examples.Inputs(), out, kept)
        found[candidates] = rows = [row for part in rows_by_shard(out).values() for row in part]
        texts = [row["fields"]["text"] for row in rows]
        assert len(texts) == len(set(texts)) == result.num_rows <= 45 * candidates
        assert all(0.5 <= row["confidence"] <= 1 for row in rows)
        table = {row["label"]: row["labelled"] for row in kept.tables["pseudo_labels"]}
        assert table == {label: sum(row["label"] == label for row in rows) for label in single.verbalizer}
        assert min(table.values()) > 0, "the model's preference for one of them is taken away"
    assert len(found[4]) < sum(SIZES) * len(WORDS), "there was enough before the end"


def test_a_sentence_that_comes_again_is_dropped_and_nothing_comes_behind_enough() -> None:
    def labelled(shard: str, *rows: tuple[str, str, float]) -> Rows:
        made = [
            {"uid": text, "fields": {"text": text}, "label": label, "confidence": sure} for text, label, sure in rows
        ]
        return Rows(shard, 0, pyarrow.Table.from_pylist(made))

    stream = iter([
        labelled("a", ("One.", "x", 0.9), ("Two.", "x", 0.4)), labelled("a", ("ONE.", "y", 0.9), ("Three.", "x", 0.8)),
        labelled("b", ("two.", "y", 0.9)), labelled("b", ("Four.", "y", 0.9), ("Five.", "y", 0.9)),
        labelled("c", ("Six.", "y", 0.9)),
    ])  # fmt: skip
    found = ConfidentSentences({"x": [], "y": []})
    passed = list(until_enough(stream, found, set(), 0.5, 4))
    assert [(item.shard, item.first, [row["uid"] for row in item.rows.to_pylist()]) for item in passed] == [
        ("a", 0, ["One.", "Two."]), ("a", 2, ["Three."]), ("b", 0, []), ("b", 0, ["Four.", "Five."]),
    ]  # fmt: skip
    assert found.kept == {"x": ["One.", "Three."], "y": ["Four.", "Five."]}
    assert (found.num_seen, found.highest, found.total) == (5, 0.9, {"x": 3, "y": 2})
    assert len(list(stream)) == 1


@pytest.mark.parametrize("calibration", ["none", "contextual", "unlabeled"])
def test_every_worker_calibrates_alike(
    calibration: Any, pile: Path, backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever block a worker gets first; and by more than the first shard has."""
    single = LABELLING.model_copy(update={"calibration": calibration})
    found = corpus(pile)
    shares = allocate_examples(
        [shard_indexer(found, 1)(f"part-{n}") for n in range(4)], CorpusRequirements(1, 1), 200, "this test"
    )
    asked: list[int] = []
    predict = ClozeClassifier.predict

    def counting(self: Any, examples: Any, *others: Any) -> Any:
        asked.append(len(examples))
        return predict(self, examples, *others)

    monkeypatch.setattr(ClozeClassifier, "predict", counting)
    made = [
        sentence_labeler(single, backbone_config(backbone_folders["bert"]), found, 3, shares.parts) for _ in range(2)
    ]
    neutral = asked[0] if calibration == "contextual" else 0
    assert asked == {"none": [], "contextual": [neutral] * 2, "unlabeled": [144] * 2}[calibration]
    held = [block for part in shares.parts for block in blocks(found, 1, part)]
    assert len(shares.parts[0].example_range) < 144 and len(held) > 4
    forwards = [made[0](block).rows for block in held]
    backwards = [made[1](block).rows for block in reversed(held)]
    assert forwards == backwards[::-1]


class Stopping(InProcessEngine):
    """Keeps which sources of a second pass were asked for; stops behind some of its answers."""

    def __init__(self, work: Path, most: int = 1000) -> None:
        super().__init__(work)
        self.asked: list[str] = []
        self.most = most

    def map_batches(self, sources: Sequence[Any], read: Callable[[Any], Any], make: Callable[[], Any]) -> Iterator[Any]:
        answers = super().map_batches(sources, read, make)
        if sources and isinstance(sources[0], str):  # the first pass
            yield from answers
            return
        self.asked = [part.shard for part in sources]
        for number, item in enumerate(answers):
            if number == self.most:
                raise KeyboardInterrupt
            yield item


@pytest.mark.parametrize("kind", ["choice", "single"])
def test_shards_that_are_done_are_not_built_again(
    kind: str, pile: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    single = LABELLING.model_copy(update={"candidates_per_example": 3, "calibration": "unlabeled"})
    settings = config(pile, kind, backbone=backbone_config(backbone_folders["bert"]), single=single, num_held_out=60)
    work, inputs = tmp_path / "work", pretraining_examples.Inputs()
    for name in ("work", "out", "again", "whole"):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        pretraining_examples.run(settings, inputs, tmp_path / "out", SILENT, Stopping(work, most=5))
    assert not list((tmp_path / "out").iterdir()), "nothing half-written reaches the result"
    done = {path.name: path.stat().st_ino for path in (work / "shards").glob("*.parquet")}
    assert {"part-0.parquet", "part-1.parquet"} <= set(done) and "part-3.parquet" not in done
    engine = Stopping(work)
    pretraining_examples.run(settings, inputs, tmp_path / "again", SILENT, engine)
    assert engine.asked == (["part-2", "part-3"] if kind == "single" else ["part-3"])
    assert {name: (tmp_path / "again" / name).stat().st_ino for name in done} == done
    pretraining_examples.run(settings, inputs, tmp_path / "whole", SILENT, InProcessEngine())
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "whole")
    assert len(bytes_of(tmp_path / "whole")) >= 3


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_a_corpus_without_a_shard_that_suffices_is_refused(pile: Path, tmp_path: Path) -> None:
    assert corpus_requirements("choice", 23).documents == 22
    with pytest.raises(DataError, match=r"no shard has 22 documents .* the format choice needs; the fullest has 20"):
        run(
            pretraining_examples, config(pile, "choice", num_options=(2, 23)), pretraining_examples.Inputs(),
            tmp_path / "out",
        )  # fmt: skip
    assert not list((tmp_path / "out").iterdir())


def test_a_row_without_the_column_is_told_before_anything_is_built(pile: Path, tmp_path: Path) -> None:
    with (pile / "part-3.jsonl").open("a") as file:
        file.write('{"txt": "a"}\n')
    with pytest.raises(DataError, match=r"part-3\.jsonl, line 22: there is no column 'text'.* Take one of: txt"):
        run(pretraining_examples, config(pile), pretraining_examples.Inputs(), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_too_little_that_is_sure_is_refused(pile: Path, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    single = LABELLING.model_copy(update={"min_confidence": 0.999, "calibration": "none"})
    settings = config(pile, "single", backbone=backbone_config(backbone_folders["bert"]), single=single)
    with pytest.raises(DataError, match="labelled surely enough, and 45 are needed") as caught:
        run(pretraining_examples, settings, pretraining_examples.Inputs(), tmp_path / "out")
    assert caught.value.key == "single.min_confidence"


# --- the prompt -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pair", "single"])
def test_a_prompt_learns_from_what_was_built(
    kind: str, pile: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = backbone_config(backbone_folders["bert"], 100)
    before = config(pile, kind, backbone=backbone)
    built = run(pretraining_examples, before, pretraining_examples.Inputs(), tmp_path / "built")
    settings = PretrainingConfig(
        backbone=backbone, format=kind, single=LABELLING, corpus=before.corpus, num_virtual_tokens=4, num_held_out=5, seed=8,
        training=TrainingConfig(learning_rate=0.05, batch_size=4, steps=2),
    )  # fmt: skip
    inputs = prompt_pretraining.Inputs(examples=tmp_path / "built")
    result = run(prompt_pretraining, settings, inputs, tmp_path / "out")
    assert (result.num_examples, result.held_out.num_examples) == (40, 5)
    assert result.num_documents == built.num_documents
    written = [json.loads(line) for line in (tmp_path / "out" / "examples.jsonl").read_text().splitlines()]
    found = {json.dumps([item.fields, item.label]) for item in examples_of(tmp_path / "built")}
    assert {json.dumps([row["fields"], row["label"]]) for row in written} <= found
    assert len(written) == 45
