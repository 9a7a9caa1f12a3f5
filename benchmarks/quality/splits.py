"""The splits that all methods are compared on, drawn from a folder of few-shot sets: the same on every machine.

    python benchmarks/quality/sets.py --data FOLDER --out OUT [--sets sst2,rte] [--seeds 5] [--unlabeled 1000]

Writes OUT/<set>/<seed>/{train,dev,unlabeled,test}.jsonl, one object a line: {"text", "label"} or {"text_a", "text_b",
"label"}; dev only where the set has one. The pile is shuffled by the seed and cut; it holds no text of train, dev or
test, and none twice.

| set | train | dev | seeds |
|---|---|---|---|
| sst2 | the files of LM-BFF (Gao et al., ACL 2021), 16 a class | likewise | names of the files |
| ag_news | 16 a class, drawn from a pool | none | of the drawing |
| rte | the 32 of FewGLUE | likewise | of the pile alone |
| eprstmt | the 5 files of FewCLUE, 32 texts each | the first file | numbers of the files |
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
    """Writes the split of one set and seed; returns its folder.

    Args:
        name: One of `SEEDS`.
        seed: One of the set's seeds.
        data: Folder with a folder for each set.
        out: Folder for all splits.
        unlabeled_size: Unlabelled texts at the most.

    Raises:
        DataError: a file is missing, or a test text is in the given training or development set.
    """
    source = data / name
    test = read(source / "test.jsonl")
    train, dev = labelled(name, seed, source, test)
    if leaked := {key(row) for row in [*train, *dev]} & {key(row) for row in test}:
        raise DataError(
            f"{name}: {len(leaked)} texts of train or dev are in test too.", "Take them out of these files."
        )
    pile = distinct(read(source / "unlabeled.jsonl"), but=[*train, *dev, *test])
    python_rng(seed, name, "unlabeled").shuffle(pile)
    folder = out / name / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.jsonl", train)
    write(folder / "test.jsonl", test)
    write(folder / "unlabeled.jsonl", [{k: v for k, v in row.items() if k != "label"} for row in pile[:unlabeled_size]])
    if dev:
        write(folder / "dev.jsonl", dev)
    return folder


def labelled(name: str, seed: int, source: Path, test: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The training and the development set; the latter may be empty."""
    if name == "ag_news":
        return draw(distinct(read(source / "pool.jsonl"), but=test), seed), []
    if name == "sst2":
        shots = source / "kshot16" / str(seed)
        return read(shots / "train.jsonl"), read(shots / "dev.jsonl")
    if name == "rte":
        return read(source / "train.jsonl"), read(source / "dev.jsonl")
    return read(source / f"train_{seed}.jsonl"), read(source / "dev_0.jsonl")


def draw(pool: Sequence[Row], seed: int) -> list[Row]:
    """16 rows a class, in the order of the labels."""
    taken: list[Row] = []
    for label in sorted({row["label"] for row in pool}):
        taken += python_rng(seed, "ag_news", label).sample([row for row in pool if row["label"] == label], SHOTS)
    return taken


def key(row: Row) -> str:
    """Rows with the same key are the same text: case and white space do not count."""
    return "\x1f".join(" ".join(text.casefold().split()) for name, text in row.items() if name != "label")


def distinct(rows: Sequence[Row], but: Sequence[Row]) -> list[Row]:
    """The rows in their order, without repetitions and without the texts of `but`."""
    others = {key(row) for row in but}
    found = {key(row): row for row in reversed(rows)}
    return [row for text, row in reversed(found.items()) if text not in others]


def read(path: Path) -> list[Row]:
    """The rows of a file, with the columns that methods may see."""
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Name the folder that holds the sets: --data FOLDER.") from None
    return [{name: row[name] for name in COLUMNS if name in row} for row in rows]


def write(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A type for argparse: names out of `known`, with commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is unknown. Take some of: {', '.join(known)}.")
        return names

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the splits of the comparison.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the splits")
    parser.add_argument("--sets", type=some_of(SEEDS), default=list(SEEDS), help="names of sets, with commas")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds of each set")
    parser.add_argument("--unlabeled", type=int, default=UNLABELED_SIZE, help="unlabelled texts at the most")
    words = parser.parse_args()
    for name in words.sets:
        for seed in SEEDS[name][: words.seeds]:
            print(prepare(name, seed, words.data, words.out, words.unlabeled))


if __name__ == "__main__":
    main()
