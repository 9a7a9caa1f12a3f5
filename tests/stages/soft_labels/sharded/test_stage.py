"""Tests of the stage that labels shards: the same soft labels as for the unlabeled set, and resumed steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from stages.common.data import parquet_shards
from stages.common.data.config import Source
from stages.common.engine import InProcessEngine
from stages.common.errors import DataError
from stages.common.examples import load_examples
from stages.common.models.backbones.config import LoraConfig
from stages.common.models.encoders.config import EncoderConfig
from stages.common.training.config import TrainingConfig
from stages.pet import stage as pet
from stages.pet.config import PetConfig
from stages.probe import stage as probe
from stages.probe.config import ProbeConfig
from stages.soft_labels import stage as soft_labels
from stages.soft_labels.config import EnsembleConfig, SoftLabelsConfig
from stages.soft_labels.sharded import stage as sharded
from stages.soft_labels.sharded.config import ShardedLabelsConfig, ShardsConfig
from tests.support.small_models import backbone_config, film_task, write_lines
from tests.support.stage_runs import LABELS, SILENT, Kept, logits_of, run

TASK = film_task("bert")
TRAINING = TrainingConfig(learning_rate=0.05, batch_size=4, steps=3)
MEMBERS = (("review", "lora"), ("summary", "lora"), ("summary", "none"), ("review", "full"))
GROUPS = ("a", "a", "b", "c", "d")
SIZES = (4, 1, 5)


@pytest.fixture
def shards(film_data: Path, tmp_path: Path) -> Path:
    """The ten unlabeled examples in three shards of different sizes, one of them parquet; and another file."""
    texts = [{"text": item.fields["text"]} for item in load_examples(film_data / "unlabeled.jsonl")]
    folder = tmp_path / "shards"
    folder.mkdir()
    write_lines(folder / "part-0.jsonl", texts[:4])
    parquet.write_table(pyarrow.Table.from_pylist(texts[4:5]), folder / "part-1.parquet")
    write_lines(folder / "part-2.jsonl", texts[5:])
    (folder / "_SUCCESS").touch()
    return folder


@pytest.fixture
def members(film_data: Path, backbone_folders: dict[str, Path], tmp_path: Path) -> tuple[Path, ...]:
    """Two adapters and no training on one backbone, a separate backbone, and a probe."""
    backbone = backbone_config(backbone_folders["bert"])
    folders = []
    for number, (pattern, tune) in enumerate(MEMBERS):
        config = PetConfig(
            task=TASK.only(pattern), pattern=pattern, backbone=backbone, tune=tune, seed=number,
            lora=LoraConfig(rank=2, targets=("query", "value")), training=None if tune == "none" else TRAINING,
        )  # fmt: skip
        folders.append(tmp_path / f"member{number}")
        run(pet, config, pet.Inputs(data=film_data), folders[-1])
    config = ProbeConfig(labels=LABELS, fields=("text",), encoder=encoder(backbone_folders))
    run(probe, config, probe.Inputs(data=film_data), tmp_path / "probe")
    return (*folders, tmp_path / "probe")


def encoder(folders: dict[str, Path]) -> EncoderConfig:
    return EncoderConfig(asset=str(folders["bert"]), max_length=64, precision="fp32")


def config(source: Source, ensemble: EnsembleConfig) -> ShardedLabelsConfig:
    return ShardedLabelsConfig(
        labels=LABELS,
        ensemble=ensemble,
        groups=GROUPS,
        have_priors=(True,) * len(GROUPS),
        shards=ShardsConfig(source=source, batch_size=2),
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
def test_shards_get_the_soft_labels_of_the_unlabeled_set(
    ensemble: EnsembleConfig,
    members: tuple[Path, ...],
    shards: Path,
    film_data: Path,
    tmp_path: Path,
) -> None:
    names = tuple(folder.name for folder in members)
    unlabeled = SoftLabelsConfig(
        labels=LABELS, ensemble=ensemble, members=names, groups=GROUPS, have_priors=(True,) * len(GROUPS)
    )
    run(soft_labels, unlabeled, soft_labels.Inputs(data=film_data, members=members), tmp_path / "unlabeled")
    expected = logits_of(tmp_path / "unlabeled", "soft_labels")
    settings = config(Source(asset=str(shards)), ensemble)
    recorder = Kept()
    result = run(sharded, settings, sharded.Inputs(members=members), tmp_path / "out", recorder)
    rows = rows_of(tmp_path / "out")
    assert [[row["logits"][label] for label in LABELS] for row in rows] == pytest.approx(expected, abs=1e-4)
    assert [row["fields"] for row in rows] == [item.fields for item in load_examples(film_data / "unlabeled.jsonl")]
    predicted = [LABELS[index] for index in expected.argmax(axis=1)]
    assert [row["label"] for row in rows] == predicted
    assert [row["uid"] for row in rows[3:7]] == ["part-0-3", "part-1-0", "part-2-0", "part-2-1"]
    sizes = [parquet.read_metadata(tmp_path / "out" / f"part-{number}.parquet").num_rows for number in range(3)]
    assert tuple(sizes) == SIZES
    assert result.label_counts == {label: predicted.count(label) for label in LABELS}
    assert (result.num_texts, result.num_shards) == (10, 3)
    assert recorder.metrics["shards/fresh"] == pytest.approx(predicted.count("fresh") / 10)


class StoppingEngine(InProcessEngine):
    """Remembers the requested shards, and stops after some batches."""

    def __init__(self, checkpoint_dir: Path, max_batches: int = 100) -> None:
        super().__init__(checkpoint_dir)
        self.requested: list[str] = []
        self.max_batches = max_batches

    def map_batches(self, sources: Sequence[Any], read: Callable[[Any], Any], make: Callable[[], Any]) -> Iterator[Any]:
        self.requested = list(sources)
        for number, item in enumerate(super().map_batches(sources, read, make)):
            if number == self.max_batches:
                raise KeyboardInterrupt
            yield item


def test_completed_shards_are_not_labeled_again(members: tuple[Path, ...], shards: Path, tmp_path: Path) -> None:
    settings = config(Source(asset=str(shards / "*-*")), EnsembleConfig())
    inputs, checkpoints = sharded.Inputs(members=members), tmp_path / "checkpoints"
    for name in ("checkpoints", "out", "again", "uninterrupted"):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        sharded.run(settings, inputs, tmp_path / "out", SILENT, StoppingEngine(checkpoints, max_batches=4))
    assert not list((tmp_path / "out").iterdir())
    done = {
        path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (checkpoints / "shards").glob("*.parquet")
    }
    assert set(done) == {"part-0.parquet", "part-1.parquet"}
    engine = StoppingEngine(checkpoints)
    sharded.run(settings, inputs, tmp_path / "again", SILENT, engine)
    assert engine.requested == ["part-2"]
    after = {name: ((path := tmp_path / "again" / name).stat().st_mtime_ns, path.read_bytes()) for name in done}
    assert after == done
    sharded.run(settings, inputs, tmp_path / "uninterrupted", SILENT, InProcessEngine())
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "uninterrupted")


@pytest.mark.parametrize(
    ("row", "problem"),
    [('{"text": ""}', "the field 'text' is empty"), ('{"text": ', "not JSON"), ('{"txt": "a"}', "no column 'text'")],
)
def test_malformed_row_raises_before_anything_is_labeled(row: str, problem: str, shards: Path, tmp_path: Path) -> None:
    with (shards / "part-2.jsonl").open("a") as file:
        file.write(row + "\n")
    settings = config(Source(asset=str(shards)), EnsembleConfig())
    with pytest.raises(DataError, match=rf"part-2\.jsonl, line 6: .*{problem}"):
        run(sharded, settings, sharded.Inputs(members=()), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
