"""A pile in shards is labelled as the ordinary pile is, shard by shard, and students learn from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from stages.common.data import parquet_shards, soft_label_shards, text_shards
from stages.common.data.config import Source
from stages.common.data.split_files import load_examples
from stages.common.engine import InProcessEngine
from stages.common.errors import DataError, InputError
from stages.common.models.backbones.config import LoraConfig
from stages.common.models.encoders.config import EncoderConfig, StudentConfig
from stages.common.prompts.config import ProbeSpec, SubModelSpec
from stages.common.training.config import TrainingConfig
from stages.distillation import stage as distillation
from stages.distillation.config import DistillationConfig
from stages.distillation.stage import _load_examples
from stages.pet import stage as pattern_training
from stages.pet.config import PetConfig
from stages.probe import stage as probe
from stages.probe.config import ProbeConfig
from stages.soft_labels import stage as soft_labels
from stages.soft_labels.config import EnsembleConfig, SoftLabelsConfig
from stages.soft_labels.sharded import stage as shard_labels
from stages.soft_labels.sharded.config import ShardedLabelsConfig, ShardsConfig
from tests.support.small_models import backbone_config, film_example, film_task, write_lines
from tests.support.stage_runs import LABELS, SILENT, Kept, logits_of, run

TASK = film_task("bert")
LOOP = TrainingConfig(learning_rate=0.05, batch_size=4, steps=3)
MEMBERS = (("review", "lora"), ("summary", "lora"), ("summary", "none"), ("review", "full"))
GROUPS = ("a", "a", "b", "c", "d")
SIZES = (4, 1, 5)


@pytest.fixture
def pile(film_data: Path, tmp_path: Path) -> Path:
    """The ten unlabelled texts in three shards of uneven size, one of them parquet; and a file that is no shard."""
    texts = [{"text": item.fields["text"]} for item in load_examples(film_data / "unlabeled.jsonl")]
    folder = tmp_path / "pile"
    folder.mkdir()
    write_lines(folder / "part-0.jsonl", texts[:4])
    parquet.write_table(pyarrow.Table.from_pylist(texts[4:5]), folder / "part-1.parquet")
    write_lines(folder / "part-2.jsonl", texts[5:])
    (folder / "_SUCCESS").touch()
    return folder


@pytest.fixture
def members(film_data: Path, backbone_folders: dict[str, Path], tmp_path: Path) -> tuple[Path, ...]:
    """Two adapters and nothing on one backbone, a backbone of its own, and a probe: all trained apart."""
    backbone = backbone_config(backbone_folders["bert"])
    folders = []
    for number, (pattern, tune) in enumerate(MEMBERS):
        config = PetConfig(
            task=TASK.only(pattern), pattern=pattern, backbone=backbone, tune=tune, seed=number,
            lora=LoraConfig(rank=2, targets=("query", "value")), training=None if tune == "none" else LOOP,
        )  # fmt: skip
        folders.append(tmp_path / f"member{number}")
        run(pattern_training, config, pattern_training.Inputs(data=film_data), folders[-1])
    config = ProbeConfig(labels=LABELS, fields=("text",), encoder=encoder(backbone_folders))
    run(probe, config, probe.Inputs(data=film_data), tmp_path / "probe")
    return (*folders, tmp_path / "probe")


def encoder(folders: dict[str, Path]) -> EncoderConfig:
    return EncoderConfig(asset=str(folders["bert"]), max_length=64, precision="fp32")


def config(folders: dict[str, Path], source: Source, ensemble: EnsembleConfig, size: int = 2) -> ShardedLabelsConfig:
    backbone = backbone_config(folders["bert"])
    voters = [SubModelSpec(task=TASK.only(name), pattern=name, backbone=backbone) for name, _ in MEMBERS]
    return ShardedLabelsConfig(
        labels=LABELS,
        ensemble=ensemble,
        voters=(*voters, ProbeSpec(encoder=encoder(folders))),
        groups=GROUPS,
        shards=ShardsConfig(source=source, batch_size=size),
    )


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [
        row
        for part in parquet_shards.iter_rows(folder, ["uid", "label", "fields", "logits"])
        for row in part.to_pylist()
    ]


@pytest.mark.parametrize(
    "ensemble",
    [
        EnsembleConfig(),
        EnsembleConfig(average="probabilities", weights="balanced", calibration="contextual", temperature=2.0),
        EnsembleConfig(weights="accuracy", calibration="unlabeled"),
    ],
)
def test_shards_get_the_soft_labels_that_the_ordinary_pile_gets(
    ensemble: EnsembleConfig,
    members: tuple[Path, ...],
    pile: Path,
    film_data: Path,
    backbone_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    names = tuple(folder.name for folder in members)
    plain = SoftLabelsConfig(labels=LABELS, ensemble=ensemble, members=names, groups=GROUPS)
    run(soft_labels, plain, soft_labels.Inputs(data=film_data, members=members), tmp_path / "plain")
    expected = logits_of(tmp_path / "plain", "soft_labels")
    settings = config(backbone_folders, Source(asset=str(pile)), ensemble)
    recorder = Kept()
    result = run(shard_labels, settings, shard_labels.Inputs(members=members), tmp_path / "out", recorder)
    rows = rows_of(tmp_path / "out")
    assert [[row["logits"][label] for label in LABELS] for row in rows] == pytest.approx(expected, abs=1e-4)
    assert [row["fields"] for row in rows] == [item.fields for item in load_examples(film_data / "unlabeled.jsonl")]
    guesses = [LABELS[place] for place in expected.argmax(axis=1)]
    assert [row["label"] for row in rows] == guesses
    assert [row["uid"] for row in rows[3:7]] == ["part-0-3", "part-1-0", "part-2-0", "part-2-1"]
    sizes = [parquet.read_metadata(tmp_path / "out" / f"part-{number}.parquet").num_rows for number in range(3)]
    assert tuple(sizes) == SIZES
    assert result.label_counts == {label: guesses.count(label) for label in LABELS}
    assert (result.num_texts, result.num_shards) == (10, 3)
    assert recorder.metrics["shards/fresh"] == pytest.approx(guesses.count("fresh") / 10)


class Counting(InProcessEngine):
    """Keeps which shards were asked for; stops behind some batches."""

    def __init__(self, work: Path, most: int = 100) -> None:
        super().__init__(work)
        self.asked: list[str] = []
        self.most = most

    def map_batches(self, sources: Sequence[Any], read: Callable[[Any], Any], make: Callable[[], Any]) -> Iterator[Any]:
        self.asked = list(sources)
        for number, item in enumerate(super().map_batches(sources, read, make)):
            if number == self.most:
                raise KeyboardInterrupt
            yield item


def test_shards_that_are_done_are_not_labelled_again(
    members: tuple[Path, ...], pile: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = config(backbone_folders, Source(asset=str(pile / "*-*")), EnsembleConfig())
    inputs, work = shard_labels.Inputs(members=members), tmp_path / "work"
    for name in ("work", "out", "again", "whole"):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        shard_labels.run(settings, inputs, tmp_path / "out", SILENT, Counting(work, most=4))
    assert not list((tmp_path / "out").iterdir()), "nothing half-written reaches the result"
    done = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (work / "shards").glob("*.parquet")}
    assert set(done) == {"part-0.parquet", "part-1.parquet"}
    engine = Counting(work)
    shard_labels.run(settings, inputs, tmp_path / "again", SILENT, engine)
    assert engine.asked == ["part-2"]
    after = {name: ((path := tmp_path / "again" / name).stat().st_mtime_ns, path.read_bytes()) for name in done}
    assert after == done
    shard_labels.run(settings, inputs, tmp_path / "whole", SILENT, InProcessEngine())
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("row", "told"),
    [('{"text": ""}', "the field 'text' is empty"), ('{"text": ', "not JSON"), ('{"txt": "a"}', "no column 'text'")],
)
def test_a_broken_row_is_told_with_its_place_before_anything_is_labelled(
    row: str, told: str, pile: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    with (pile / "part-2.jsonl").open("a") as file:
        file.write(row + "\n")
    settings = config(backbone_folders, Source(asset=str(pile)), EnsembleConfig())
    with pytest.raises(DataError, match=rf"part-2\.jsonl, line 6: .*{told}"):
        run(shard_labels, settings, shard_labels.Inputs(members=()), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_shards_that_change_while_they_are_read_are_refused(pile: Path, tmp_path: Path) -> None:
    source = Source(asset=str(pile))
    counts = text_shards.count_examples(source)
    write_lines(pile / "part-0.jsonl", [{"text": "only one"}])
    stream = map(_constant, text_shards.read_batches(source, 2, "part-0"))
    with pytest.raises(DataError, match="part-0 should have 4 rows, and 1 came"):
        list(parquet_shards.write_shards(stream, counts, tmp_path))
    assert not list(tmp_path.glob("*.parquet"))


def test_names_that_would_meet_and_names_of_nothing_are_refused(pile: Path) -> None:
    with pytest.raises(DataError, match=r"pile/nothing-\* matches no file"):
        text_shards.shard_files(str(pile / "nothing-*"))
    write_lines(pile / "part-1.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"would both become part-1\.parquet"):
        text_shards.shard_files(str(pile))


def test_shards_without_a_text_are_passed_over(pile: Path, tmp_path: Path) -> None:
    (pile / "part-0.jsonl").write_text("")
    assert text_shards.count_examples(Source(asset=str(pile))) == {"part-0": 0, "part-1": 1, "part-2": 5}
    for name in ("part-1.parquet", "part-2.jsonl"):
        (pile / name).unlink()
    with pytest.raises(DataError, match="holds no example"):
        text_shards.count_examples(Source(asset=str(pile)))


def _constant(batch: text_shards.TextBatch) -> parquet_shards.Rows:
    import numpy as np

    return soft_label_shards.labeled_rows(batch, np.ones((len(batch.examples), 2)), LABELS)


@pytest.fixture
def soft(tmp_path: Path) -> Path:
    """Forty soft-labelled texts in shards of 9; text i is fresh for odd i, and the surer the higher i is."""
    import numpy as np

    folder = tmp_path / "soft"
    folder.mkdir()
    for number, first in enumerate(range(0, 40, 9)):
        examples = tuple(film_example(row) for row in range(first, min(first + 9, 40)))
        logits = np.array([[(-1) ** row * (0.1 + row / 20), 0.0] for row in range(first, first + len(examples))])
        batch = text_shards.TextBatch(f"part-{number}", 0, examples)
        list(
            parquet_shards.write_shards(
                [soft_label_shards.labeled_rows(batch, logits, LABELS)], {batch.shard: len(examples)}, folder
            )
        )
    return folder


def test_a_student_learns_from_some_of_the_shards_texts(
    soft: Path, film_data: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    student = StudentConfig(asset=str(backbone_folders["bert"]), max_length=64, precision="fp32")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "result.json").write_text(json.dumps({"num_labeled": 8}))
    inputs = distillation.Inputs(data=film_data, soft_labels=tmp_path / "labels", shards=soft)

    def taught(**settings: Any) -> list[int]:
        about = {"temperature": 2.0, "seed": 3, **settings}
        found = DistillationConfig(labels=LABELS, fields=("text",), student=student, training=LOOP, **about)
        lessons = _load_examples(found, inputs)[0]
        rows = [int(item.example.uid.removeprefix("film-")) for item in lessons]
        for row, item in zip(rows, lessons, strict=True):
            assert item.example == film_example(row)
            assert item.teacher == pytest.approx(((-1) ** row * (0.1 + row / 20), 0.0), abs=1e-5)
        return rows

    assert taught() == list(range(40))
    assert taught(keep_fraction=0.5, max_student_examples=100) == list(range(20, 40))
    drawn = taught(keep_fraction=0.5, max_student_examples=7)
    assert len(drawn) == 7 and set(drawn) < set(range(20, 40)) and drawn == sorted(drawn)
    assert (
        drawn
        == taught(keep_fraction=0.5, max_student_examples=7)
        != taught(keep_fraction=0.5, max_student_examples=7, seed=4)
    )
    with pytest.raises(InputError, match="Lower min_confidence"):
        taught(min_confidence=0.99)
    plain = DistillationConfig(
        labels=LABELS,
        fields=("text",),
        student=student,
        training=LOOP,
        temperature=2.0,
        max_student_examples=30,
        seed=3,
    )
    result = run(distillation, plain, inputs, tmp_path / "student")
    assert result.num_unlabeled == 30
