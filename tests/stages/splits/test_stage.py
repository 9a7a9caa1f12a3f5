"""Tests of the split stage: sizes, disjoint texts, seeds, and errors in files."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.common.data.config import Source
from stages.common.engine import InProcessEngine
from stages.common.errors import DataError
from stages.common.examples import load_examples
from stages.common.protocols import NullRecorder
from stages.splits.config import DataConfig, SplitsConfig
from stages.splits.stage import Inputs, Result, proportional_shares, run, sample_splits
from tests.support.small_models import write_lines

LABELS = ("rotten", "fresh")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """60 reviews with alternating labels. Every third text occurs again with different case and spaces."""
    rows: list[dict[str, object]] = []
    for number in range(60):
        row = {"text": f"Review number {number} of the film", "category": LABELS[number % 2]}
        rows.append(row)
        if number % 3 == 0:
            rows.append({**row, "text": f"  review NUMBER {number}\tof the  film "})
    return write_lines(tmp_path / "pool.jsonl", rows)


def source(path: Path, **settings: Any) -> Source:
    return Source(asset=str(path), **({"label": "category"} | settings))


def config(data: DataConfig, seed: int = 0, fields: tuple[str, ...] = ("text",)) -> SplitsConfig:
    return SplitsConfig(data=data, labels=LABELS, fields=fields, seed=seed)


def sample(config: SplitsConfig, out: Path) -> tuple[Result, dict[str, str]]:
    """Returns the result, and the content of every file."""
    out.mkdir()
    result = run(config, Inputs(), out, NullRecorder(), InProcessEngine())
    return result, {path.stem: path.read_text() for path in out.iterdir()}


def key(text: str) -> str:
    return "".join(text.split()).lower()


def sizes(path: Path, **settings: Any) -> DataConfig:
    small = {"pool": source(path), "shots": 4, "dev_shots": 2, "unlabeled_size": 20, "test_size": 15}
    return DataConfig(**(small | settings))


def test_sets_have_the_configured_sizes_and_are_disjoint(pool: Path, tmp_path: Path) -> None:
    result, _ = sample(config(sizes(pool)), tmp_path / "out")
    sets = {name: load_examples(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "dev", "unlabeled", "test")}
    assert {name: len(items) for name, items in sets.items()} == {"train": 8, "dev": 4, "unlabeled": 20, "test": 15}
    assert (result.num_train, result.num_dev, result.num_unlabeled, result.num_test) == (8, 4, 20, 15)
    assert result.label_counts["train"] == {"fresh": 4, "rotten": 4}
    assert result.label_counts["dev"] == {"fresh": 2, "rotten": 2}
    assert sum(result.label_counts["test"].values()) == 15
    texts = [key(item.fields["text"]) for items in sets.values() for item in items]
    assert len(texts) == len(set(texts)) == 47
    uids = [item.uid for items in sets.values() for item in items]
    assert len(set(uids)) == 47


def test_sampled_examples_keep_their_labels(pool: Path, tmp_path: Path) -> None:
    sample(config(sizes(pool)), tmp_path / "out")
    gold = {key(row["text"]): row["category"] for row in map(json.loads, pool.read_text().splitlines())}
    for name in ("train", "dev", "test", "unlabeled_gold"):
        for item in load_examples(tmp_path / "out" / f"{name}.jsonl"):
            assert item.label == gold[key(item.fields["text"])]


def test_files_depend_on_the_seed(pool: Path, tmp_path: Path) -> None:
    _, first = sample(config(sizes(pool), seed=3), tmp_path / "first")
    _, again = sample(config(sizes(pool), seed=3), tmp_path / "again")
    _, other = sample(config(sizes(pool), seed=4), tmp_path / "other")
    assert first == again
    assert all(first[name] != other[name] for name in ("train", "dev", "unlabeled", "test"))


def test_labels_of_the_unlabeled_set_are_hidden(pool: Path, tmp_path: Path) -> None:
    _, files = sample(config(sizes(pool)), tmp_path / "out")
    rows = [json.loads(line) for line in files["unlabeled"].splitlines()]
    assert all(row["label"] is None for row in rows)
    assert not any(label in files["unlabeled"] for label in LABELS)
    gold = [json.loads(line) for line in files["unlabeled_gold"].splitlines()]
    assert [row["uid"] for row in gold] == [row["uid"] for row in rows]
    assert all(row["label"] in LABELS for row in gold)


def test_texts_of_files_are_not_sampled_from_the_pool(pool: Path, tmp_path: Path) -> None:
    rows = [{"text": f"REVIEW number {number} of the film", "category": LABELS[number % 2]} for number in range(30)]
    test = write_lines(tmp_path / "test.jsonl", rows)
    rows = [{"text": f"Review  number {n} of the film"} for n in range(30, 40)]
    unlabeled = write_lines(tmp_path / "unlabeled.jsonl", rows)
    data = DataConfig(pool=source(pool), test=source(test), unlabeled=source(unlabeled, label=None), shots=10)
    result, files = sample(config(data), tmp_path / "out")
    assert (result.num_test, result.num_unlabeled, result.num_train) == (30, 10, 20)
    assert "unlabeled_gold" not in files
    sampled = {key(item.fields["text"]) for item in load_examples(tmp_path / "out" / "train.jsonl")}
    assert sampled == {f"reviewnumber{number}ofthefilm" for number in range(40, 60)}


def test_fields_that_no_pattern_uses_do_not_distinguish_texts(pool: Path, tmp_path: Path) -> None:
    """The same review with another title is the same text."""
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    titled = write_lines(tmp_path / "titled.jsonl", [{**row, "title": f"t{n}"} for n, row in enumerate(rows)])
    data = sizes(titled, test=source(pool, limit=20))
    data = data.model_copy(update={"pool": source(titled, fields={"title": "title", "text": "text"})})
    sample(config(data), tmp_path / "out")
    sets = [load_examples(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "dev", "unlabeled", "test")]
    sampled = [key(item.fields["text"]) for items in sets[:3] for item in items]
    assert len(sampled) == len(set(sampled))
    assert not set(sampled) & {key(item.fields["text"]) for item in sets[3]}


def test_files_are_used_in_full(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "category": LABELS[number % 2]} for number in range(9)]
    train, test = write_lines(tmp_path / "a.jsonl", rows[:4]), write_lines(tmp_path / "b.jsonl", rows[4:])
    data = DataConfig(train=source(train), test=source(test), unlabeled_size=0)
    sample(config(data), tmp_path / "out")
    assert [item.fields["text"] for item in load_examples(tmp_path / "out" / "train.jsonl")] == [
        "text 0", "text 1", "text 2", "text 3"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "problem", "field"),
    [
        ({"shots": 31}, "shots is 31 per class, but the pool has", "data.shots"),
        ({"dev_shots": 30}, "dev_shots is 30 per class", "data.dev_shots"),
        ({"test_size": 61}, "test_size is 61, but the pool has 60 distinct", "data.test_size"),
    ],
)
def test_too_small_pool_raises(settings: dict[str, int], problem: str, field: str, pool: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        sample(config(sizes(pool, **settings)), tmp_path / "out")
    assert problem in caught.value.problem
    assert caught.value.key == field
    assert f"Lower {field}" in caught.value.remedy


@pytest.mark.parametrize(
    ("line", "problem", "remedy"),
    [
        ({"review": "x", "category": "fresh"}, "there is no column 'text'", "review, category"),
        ({"text": "x", "kind": "fresh"}, "there is no column 'category'", "text, kind"),
        ({"text": "x", "category": "stale"}, "label 'stale' is not in labels ['rotten', 'fresh']", "label_map"),
        ({"text": "x", "category": None}, "'category' has no label", "filter"),
        ({"text": " \t", "category": "fresh"}, "the field 'text' is empty", "drop_empty"),
        ({"text": None, "category": "fresh"}, "the field 'text' is empty", "drop_empty"),
        ({"text": 7, "category": "fresh"}, "'text' is int, not text", "quotes"),
    ],
)
@pytest.mark.parametrize("name", ["pool", "train", "test"])
def test_malformed_row_raises_with_file_and_line(
    name: str, line: dict[str, object], problem: str, remedy: str, pool: Path, tmp_path: Path
) -> None:
    rows = [json.loads(text) for text in pool.read_text().splitlines()]
    broken = write_lines(tmp_path / "broken.jsonl", [*rows[:5], line])
    data = sizes(pool, **{name: source(broken)})
    with pytest.raises(DataError) as caught:
        sample(config(data), tmp_path / "out")
    assert caught.value.problem.startswith("broken.jsonl, line 6: ")
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy
    assert caught.value.key == f"data.{name}"


def test_drop_empty_removes_empty_texts(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"t {n}" if n % 5 else "", "category": LABELS[n % 2]} for n in range(40)]
    pool = write_lines(tmp_path / "pool.jsonl", rows)
    data = DataConfig(pool=source(pool, drop_empty=True), shots=4, unlabeled_size=20, test_size=4)
    result, files = sample(config(data), tmp_path / "out")
    assert result.num_train + result.num_unlabeled + result.num_test == 32
    assert '""' not in "".join(files.values())


def test_missing_field_of_the_patterns_raises(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the field 'title', which data\.pool\.fields does not have") as caught:
        sample(config(sizes(pool), fields=("text", "title")), tmp_path / "out")
    assert caught.value.key == "data.pool.fields"
    assert "title: COLUMN" in caught.value.remedy


def test_label_without_labeled_example_raises(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"text {n}", "category": "fresh"} for n in range(9)]
    train, test = write_lines(tmp_path / "a.jsonl", rows[:4]), write_lines(tmp_path / "b.jsonl", rows[4:])
    data = DataConfig(train=source(train), test=source(test), unlabeled_size=0)
    with pytest.raises(DataError, match="no example of the label 'rotten'"):
        sample(config(data), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 4}, "neither train nor pool"),
        ({"shots": 0}, "neither test nor pool"),
        ({"pool": Source(asset="a.jsonl")}, r"pool\.label is not set"),
    ],
)
def test_set_without_a_source_raises(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


def test_test_texts_in_the_training_file_are_counted(tmp_path: Path) -> None:
    for name, texts in (("train", ["Fine film", "dull"]), ("test", ["fine  FILM", "new", "other"])):
        rows = [{"text": text, "label": label} for text, label in zip(texts, "abb", strict=False)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig.model_validate(
        {name: {"asset": str(tmp_path / f"{name}.jsonl"), "label": "label"} for name in ("train", "test")}
        | {"unlabeled_size": 0}
    )
    config = SplitsConfig(data=data, labels=("a", "b"), fields=("text",), seed=0)
    (tmp_path / "out").mkdir()
    assert run(config, Inputs(), tmp_path / "out", NullRecorder(), InProcessEngine()).num_test_seen == 1


def lines(path: Path, *rows: tuple[str, str | None]) -> Source:
    write_lines(path, [{"text": text, "category": label} for text, label in rows])
    return source(path) if rows[0][1] else source(path, label=None)


def test_texts_of_other_sets_are_removed_from_the_unlabeled_set_and_counted(tmp_path: Path) -> None:
    data = DataConfig(
        train=lines(tmp_path / "train.jsonl", ("Bad film", "rotten"), ("Good film", "fresh")),
        dev=lines(tmp_path / "dev.jsonl", ("Fine film", "fresh")),
        test=lines(tmp_path / "test.jsonl", ("Dull film", "rotten")),
        unlabeled=lines(
            tmp_path / "more.jsonl", ("bad  FILM", None), ("fine film", None), ("Dull film ", None), ("new film", None)
        ),
    )
    result, _ = sample(config(data), tmp_path / "out")
    assert (result.num_unlabeled, result.num_unlabeled_removed) == (1, 3)
    assert [item.fields["text"] for item in load_examples(tmp_path / "out" / "unlabeled.jsonl")] == ["new film"]


def test_unlabeled_set_without_a_new_text_raises(tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", ("bad film", "rotten"), ("good film", "fresh"))
    data = DataConfig(train=train, test=train, unlabeled=source(tmp_path / "train.jsonl", label=None))
    with pytest.raises(DataError, match="every unlabeled text, or its group, is also in") as caught:
        sample(config(data), tmp_path / "out")
    assert caught.value.key == "data.unlabeled"


def test_unlabeled_set_can_have_several_sources(tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", ("bad film", "rotten"), ("good film", "fresh"), ("which film", None))
    first = source(tmp_path / "train.jsonl", label=None, filter={"category": [""]})
    second = lines(tmp_path / "more.jsonl", ("new film", None), ("old film", None))
    train = train.model_copy(update={"filter": {"category": list(LABELS)}})
    data = DataConfig.model_validate(
        {"train": train, "test": train, "unlabeled": [first.model_dump(), second.model_dump()]}
    )
    assert list(data.sources) == ["train", "unlabeled.0", "unlabeled.1", "test"]
    splits = sample_splits(config(data))
    assert [item.fields["text"] for item in splits.unlabeled] == ["which film", "new film", "old film"]
    assert len({item.uid for item in splits.unlabeled}) == 3


CONFLICTS = [("a film", "fresh"), ("A  Film", "rotten"), ("good", "fresh"), ("good", "fresh"), ("bad", "rotten")]


@pytest.mark.parametrize(
    ("conflicts", "expected"),
    [
        ("keep", CONFLICTS),
        ("first", [CONFLICTS[0], *CONFLICTS[2:]]),
        ("drop", CONFLICTS[2:]),
    ],
)
@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_texts_with_several_labels_are_kept_or_left_out(
    name: str, conflicts: Any, expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [{"text": text, "category": label} for text, label in CONFLICTS]
    other = write_lines(tmp_path / "other.jsonl", [{"text": label, "category": label} for label in LABELS])
    path = write_lines(tmp_path / "rows.jsonl", rows)
    files = {"train": source(other), "test": source(other)} | {name: source(path)}
    split = sample_splits(config(DataConfig(**files, conflicts=conflicts)))
    assert [(item.fields["text"], item.label) for item in getattr(split, name)] == expected


def test_texts_with_several_labels_of_the_pool_are_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": text, "category": label} for text, label in CONFLICTS]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    for conflicts, number in (("keep", 3), ("first", 3), ("drop", 2)):
        data = DataConfig(pool=source(path), shots=0, test_size=1, conflicts=conflicts)
        split = sample_splits(config(data))
        assert len(split.test) + len(split.unlabeled) == number


def test_unlabeled_file_is_sampled_with_the_seed(tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", ("bad film", "rotten"), ("good film", "fresh"))
    more = lines(tmp_path / "more.jsonl", *((f"film {number:02}", None) for number in range(50)))
    data = DataConfig(train=train, test=train, unlabeled=more, unlabeled_size=20)
    first, again, other = (
        [item.fields["text"] for item in sample_splits(config(data, seed)).unlabeled] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(set(first)) == 20 and first == sorted(first), "in the order of the file"


def test_test_set_is_sampled_from_train_in_proportion_to_the_labels(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"film {number}", "category": "rotten" if number < 5 else "fresh"} for number in range(50)
    ]
    train = write_lines(tmp_path / "train.jsonl", [*rows, {"text": "FILM 49", "category": "fresh"}])
    result, files = sample(config(DataConfig(train=source(train), test_size=10, unlabeled_size=0)), tmp_path / "out")
    assert result.label_counts["test"] == {"fresh": 9, "rotten": 1}
    assert result.num_test_seen == 0 and result.num_unlabeled == 0
    assert result.num_train in (40, 41), "a repeated text is in one of the sets"
    other, _ = sample(config(DataConfig(train=source(train), test_size=10), seed=9), tmp_path / "other")
    assert other.label_counts["test"] == result.label_counts["test"]
    assert (tmp_path / "other" / "test.jsonl").read_text() != files["test"]


def test_test_set_from_train_leaves_an_example_of_each_label(tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", ("a", "rotten"), ("b", "fresh"), ("c", "fresh"))
    result, _ = sample(config(DataConfig(train=train, test_size=1)), tmp_path / "out")
    assert result.label_counts["train"] == {"fresh": 1, "rotten": 1}
    with pytest.raises(DataError, match="test_size is 2, but train has 1 distinct examples to spare") as caught:
        sample_splits(config(DataConfig(train=train, test_size=2)))
    assert caught.value.remedy == "Lower data.test_size to 1."


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ((50, 50), 20, (10, 10)),
        ((99, 1), 20, (20, 0)),
        ((1, 1, 10), 9, (0, 0, 9)),
        ((2, 2, 2), 3, (1, 1, 1)),
        ((10, 20, 30), 7, (1, 2, 4)),
    ],
)
def test_proportional_shares_sum_to_the_size(counts: tuple[int, ...], size: int, expected: tuple[int, ...]) -> None:
    shares = proportional_shares(dict(enumerate(counts)), size)
    assert tuple(shares.values()) == expected and sum(expected) == size


def by_authors(path: Path, num_authors: int = 20, num_texts: int = 6, **settings: Any) -> Source:
    """A file in which authors write about the same label in a row, and the author of the last text is not known."""
    rows = [
        {
            "id": f"n{author}-{text}",
            "text": f"text {text} of {author}",
            "author": f"A{author}",
            "category": LABELS[text % 2],
        }
        for author in range(num_authors)
        for text in range(num_texts)
    ]
    write_lines(path, [*rows, {"id": "last", "text": "the last", "author": "", "category": "fresh"}])
    return source(path, **({"group": "author", "id": "id"} | settings))


def groups_of(examples: Any) -> set[str]:
    return {item.group for item in examples if item.group is not None}


@pytest.mark.parametrize("seed", range(4))
def test_a_test_set_of_the_train_file_has_whole_groups(seed: int, tmp_path: Path) -> None:
    sets = sample_splits(config(DataConfig(train=by_authors(tmp_path / "a.jsonl"), test_size=25), seed))
    assert not groups_of(sets.train) & groups_of(sets.test)
    assert 19 <= len(sets.test) <= 25 and len(sets.train) + len(sets.test) == 121
    counts = Counter(item.label for item in sets.test)
    assert abs(counts["fresh"] - counts["rotten"]) <= 1
    assert {item.uid for item in (*sets.train, *sets.test)} >= {"n0-0", "n19-5", "last"}


def test_groups_that_are_too_large_for_a_test_set_are_an_error(tmp_path: Path) -> None:
    train = by_authors(tmp_path / "a.jsonl", num_authors=2, num_texts=30, filter={"author": ["A0", "A1"]})
    with pytest.raises(DataError, match="each group of train has more examples") as caught:
        sample_splits(config(DataConfig(train=train, test_size=9)))
    assert caught.value.key == "data.test_size"


@pytest.mark.parametrize("seed", range(4))
def test_sets_of_a_pool_are_compared_with_other_groups(seed: int, tmp_path: Path) -> None:
    data = DataConfig(pool=by_authors(tmp_path / "a.jsonl"), shots=3, dev_shots=2, test_size=20, unlabeled_size=40)
    sets = sample_splits(config(data, seed))
    trained_on = groups_of(sets.train) | groups_of(sets.unlabeled)
    assert (len(sets.test), len(sets.dev), len(sets.train)) == (20, 4, 6) and sets.unlabeled
    assert not trained_on & groups_of(sets.test) and not trained_on & groups_of(sets.dev)
    assert not groups_of(sets.dev) & groups_of(sets.test)
    assert len(groups_of(sets.test)) <= 5, "the test set takes few groups, so that many are left"


def test_unlabeled_texts_of_a_test_group_are_left_out(tmp_path: Path) -> None:
    train = by_authors(tmp_path / "a.jsonl")
    more = [{"text": f"more of {author}", "author": f"A{author}"} for author in range(20)]
    unlabeled = Source(asset=str(write_lines(tmp_path / "more.jsonl", more)), group="author")
    sets = sample_splits(config(DataConfig(train=train, unlabeled=unlabeled, test_size=20)))
    assert groups_of(sets.unlabeled) == {f"A{author}" for author in range(20)} - groups_of(sets.test)
    assert sets.num_unlabeled_removed == len(groups_of(sets.test))


def test_ids_must_differ(tmp_path: Path) -> None:
    train = by_authors(tmp_path / "a.jsonl", id="author", filter={"author": ["A0", "A1"]})
    with pytest.raises(DataError, match=r"two rows of data\.train have the id 'A0'") as caught:
        sample_splits(config(DataConfig(train=train, test_size=5)))
    assert caught.value.key == "data.train.id"


def test_ids_and_groups_are_in_the_files(tmp_path: Path) -> None:
    sample(config(DataConfig(train=by_authors(tmp_path / "a.jsonl"), test_size=20)), tmp_path / "out")
    items = [*load_examples(tmp_path / "out" / "train.jsonl"), *load_examples(tmp_path / "out" / "test.jsonl")]
    by_uid = {item.uid: item for item in items}
    assert by_uid["n3-2"].fields == {"text": "text 2 of 3"} and by_uid["n3-2"].group == "A3"
    assert by_uid["last"].group is None


def test_soft_conflicts_train_with_all_labels_and_are_not_tested(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "category": LABELS[number % 2]} for number in range(20)]
    both = [{"text": text, "category": label} for text in ("odd", "ODD ") for label in LABELS]
    path = write_lines(tmp_path / "a.jsonl", [*rows, *both])
    for seed in range(4):
        sets = sample_splits(config(DataConfig(train=source(path), conflicts="soft", test_size=8), seed))
        assert [item.label for item in sets.train if "odd" in item.fields["text"].lower()] == [*LABELS, *LABELS]
        assert len(sets.test) == 8 and not any("odd" in item.fields["text"].lower() for item in sets.test)
    test = source(path)
    given = sample_splits(config(DataConfig(train=source(path), test=test, conflicts="soft", unlabeled_size=0)))
    assert len(given.test) == 20 and len(given.train) == 24


def test_soft_conflicts_need_a_train_file(pool: Path) -> None:
    with pytest.raises(ValueError, match="a pool has one row per text"):
        sizes(pool, conflicts="soft")


def test_unlabeled_texts_are_streamed(tmp_path: Path) -> None:
    train = by_authors(tmp_path / "a.jsonl")
    path = tmp_path / "many.jsonl"
    with path.open("w") as file:
        for number in range(40_000):
            file.write(json.dumps({"text": f"unlabeled text {number} " + 20 * "many words "}) + "\n")
    data = DataConfig(train=train, unlabeled=Source(asset=str(path)), unlabeled_size=100, test_size=20)
    tracemalloc.start()
    sets = sample_splits(config(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    numbers = [int(item.uid.removeprefix("unlabeled-")) for item in sets.unlabeled]
    assert len(numbers) == 100 and numbers == sorted(set(numbers))
    assert min(numbers) < 4000 and max(numbers) > 36_000
    assert peak < 2e6 < path.stat().st_size
    assert sample_splits(config(data)).unlabeled == sets.unlabeled != sample_splits(config(data, seed=1)).unlabeled


def label_sets(path: Path, count: int = 60) -> Path:
    """Writes texts with one to three labels, of which `rare` has four."""
    rows = []
    for number in range(count):
        names = ["common"] + ["other"] * (number % 3 == 0) + ["rare"] * (number % 15 == 0)
        rows.append({"text": f"text {number}", "topics": names if number % 10 else []})
    return write_lines(path, rows)


def test_test_set_of_label_sets_keeps_the_shares_of_rare_labels(tmp_path: Path) -> None:
    source = Source(asset=str(label_sets(tmp_path / "train.jsonl")), label="topics")
    settings = SplitsConfig(
        data=DataConfig(train=source, test_size=15), labels=("common", "other", "rare"), fields=("text",),
        problem_type="multi_label_classification",
    )  # fmt: skip
    result, files = sample(settings, tmp_path / "out")
    counts = result.label_counts
    assert (result.num_train, result.num_test) == (45, 15)
    assert counts["test"]["rare"] >= 1 and counts["train"]["rare"] >= 1
    assert counts["test"]["common"] + counts["train"]["common"] == 54
    rows = [json.loads(line) for line in files["test"].splitlines()]
    assert any(row["label"] == [] for row in rows), "texts without labels are in it, too"
    assert all(isinstance(row["label"], list) for row in rows)


def test_train_set_has_each_label_of_label_sets(tmp_path: Path) -> None:
    source = Source(asset=str(label_sets(tmp_path / "train.jsonl")), label="topics")
    settings = SplitsConfig(
        data=DataConfig(train=source, test=source), labels=("common", "never", "other", "rare"), fields=("text",),
        problem_type="multi_label_classification",
    )  # fmt: skip
    with pytest.raises(DataError, match="no example of the label 'never'"):
        sample_splits(settings)
