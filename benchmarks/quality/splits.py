"""Writes the splits on which all methods are compared. They are the same on every machine.

    python benchmarks/quality/splits.py --data FOLDER --out OUT [--sets sst2,rte] [--seeds 5] [--unlabeled 1000]

Writes OUT/<set>/<seed>/{train,dev,unlabeled,test}.jsonl with one object per line: {"text", "label"} or {"text_a",
"text_b", "label"}. There is a dev file only if the set has one. The unlabeled data is shuffled with the seed and cut.
It contains no example of train, dev or test, and no example twice.

| set | train | dev | seeds |
|---|---|---|---|
| sst2 | the files of LM-BFF (Gao et al., ACL 2021), 16 per class | same | names of the files |
| ag_news | 16 per class, drawn from a pool | | seed of the draw |
| rte | the 32 of FewGLUE | same | seed of the unlabeled data only |
| eprstmt | the 5 files of FewCLUE, 32 examples each | the first file | numbers of the files |
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from stages.common.errors import DataError
from stages.common.seeds import python_rng

Row = dict[str, str]

SEEDS = {
    "sst2": (13, 21, 42, 87, 100),
    "ag_news": (0, 1, 2, 3, 4),
    "rte": (0, 1, 2, 3, 4),
    "eprstmt": (0, 1, 2, 3, 4),
}
SHOTS = 16
UNLABELED_SIZE = 1000
COLUMNS = ("text", "text_a", "text_b", "label")


def prepare(name: str, seed: int, data: Path, out: Path, unlabeled_size: int = UNLABELED_SIZE) -> Path:
    """Writes the split of one set and seed, and returns its folder.

    Args:
        name: One of `SEEDS`.
        seed: One of the set's seeds.
        data: Folder that contains one folder per set.
        out: Folder for all splits.
        unlabeled_size: Maximum number of unlabeled examples.

    Raises:
        DataError: a file is missing, or a test example is also in the training or dev set.
    """
    source = data / name
    test = read(source / "test.jsonl")
    train, dev = labeled_sets(name, seed, source, test)
    if leaked := {key(row) for row in [*train, *dev]} & {key(row) for row in test}:
        raise DataError(
            f"{name}: {len(leaked)} examples of train or dev are also in test.", "Remove them from these files."
        )
    unlabeled = distinct(read(source / "unlabeled.jsonl"), exclude=[*train, *dev, *test])
    python_rng(seed, name, "unlabeled").shuffle(unlabeled)
    folder = out / name / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.jsonl", train)
    write(folder / "test.jsonl", test)
    write(
        folder / "unlabeled.jsonl",
        [{k: v for k, v in row.items() if k != "label"} for row in unlabeled[:unlabeled_size]],
    )
    if dev:
        write(folder / "dev.jsonl", dev)
    return folder


def labeled_sets(name: str, seed: int, source: Path, test: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Returns the training set and the dev set, which may be empty."""
    if name == "ag_news":
        return draw(distinct(read(source / "pool.jsonl"), exclude=test), seed), []
    if name == "sst2":
        shots = source / "kshot16" / str(seed)
        return read(shots / "train.jsonl"), read(shots / "dev.jsonl")
    if name == "rte":
        return read(source / "train.jsonl"), read(source / "dev.jsonl")
    return read(source / f"train_{seed}.jsonl"), read(source / "dev_0.jsonl")


def draw(pool: Sequence[Row], seed: int) -> list[Row]:
    """Draws 16 rows per class, in the order of the labels."""
    rows: list[Row] = []
    for label in sorted({row["label"] for row in pool}):
        rows += python_rng(seed, "ag_news", label).sample([row for row in pool if row["label"] == label], SHOTS)
    return rows


def key(row: Row) -> str:
    """Returns a key that ignores case and white space. Rows with the same key count as the same example."""
    return "\x1f".join(" ".join(text.casefold().split()) for name, text in row.items() if name != "label")


def distinct(rows: Sequence[Row], exclude: Sequence[Row]) -> list[Row]:
    """Returns the rows in their order, without duplicates and without the examples of `exclude`."""
    excluded = {key(row) for row in exclude}
    unique = {key(row): row for row in reversed(rows)}
    return [row for text, row in reversed(unique.items()) if text not in excluded]


def read(path: Path) -> list[Row]:
    """Reads the rows of a file, with the columns that methods may use."""
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Set --data to the folder that contains the sets.") from None
    return [{name: row[name] for name in COLUMNS if name in row} for row in rows]


def write(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def comma_list(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Returns an argparse type that parses known names separated by commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is unknown. Known names: {', '.join(known)}.")
        return names

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that contains the sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the splits")
    parser.add_argument(
        "--sets", type=comma_list(SEEDS), default=list(SEEDS), help="names of sets, separated by commas"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds per set")
    parser.add_argument("--unlabeled", type=int, default=UNLABELED_SIZE, help="maximum number of unlabeled examples")
    options = parser.parse_args()
    for name in options.sets:
        for seed in SEEDS[name][: options.seeds]:
            print(prepare(name, seed, options.data, options.out, options.unlabeled))


if __name__ == "__main__":
    main()
