"""The comparison as Markdown: mean ± standard deviation over seeds, from the results of `ours.py` and `rivals.py`.

    python benchmarks/quality/table.py benchmarks/quality/measured/{ours,rivals}.jsonl

A cell says over how many seeds it is; the last lines compare the students with SetFit on the same encoder.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.quality import rows
from benchmarks.quality.splits import SEEDS

STUDENTS = {"minilm": "minilm", "mpnet_head": "mpnet", "mpnet": "mpnet"}
"""Students -> their encoder, on which SetFit is run too."""
ROWS = {
    "logreg/minilm": "MiniLM embeddings + logistic regression",
    "logreg/mpnet": "MPNet embeddings + logistic regression",
    "setfit/minilm": "SetFit 1.2, MiniLM",
    "setfit/mpnet": "SetFit 1.2, MPNet",
    "baseline/minilm": "baseline: MiniLM fine-tuned on the labels",
    "zero_shot/*": "zero-shot, mean of the patterns",
    "zero_shot/best": "zero-shot, best pattern",
    "pet/*": "sub-models, mean of the patterns",
    "pet/g1/*": "sub-models of the second generation (iPET)",
    "probe/mpnet": "probe: MPNet, tuned on pairs",
    "ensemble/submodels": "ensemble of the sub-models",
    "ensemble/ipet": "ensemble of the second generation (iPET)",
    "ensemble/minilm": "ensemble of sub-models and probe",
    "student/minilm": "**student: MiniLM, fine-tuned**",
    "student/mpnet_head": "**student: MPNet, frozen, linear head**",
    "student/mpnet": "**student: MPNet, fine-tuned**",
}
"""Row of the results -> what the table calls it."""

Accuracies = dict[tuple[str, str], list[rows.Row]]
"""(row of the table, set) -> results, each of one seed or several, no seed twice."""


def read(paths: list[Path]) -> Accuracies:
    """All results; patterns of one kind are averaged seed by seed."""
    alike: dict[tuple[str, str, tuple[int, ...]], list[rows.Row]] = defaultdict(list)
    for path in paths:
        for row in rows.read(path):
            for name in names(row):
                alike[name, row["set"], tuple(rows.seeds(row))].append(row)
    found: Accuracies = defaultdict(list)
    for (name, where, _), mine in alike.items():
        values = [row["accuracy"] for row in mine]
        accuracy = max(values) if name.endswith("/best") else statistics.fmean(values)
        found[name, where].append({**mine[0], "accuracy": accuracy})
    return found


def names(row: rows.Row) -> list[str]:
    """The rows of the table to which a result belongs."""
    if "method" in row:
        return [f"{row['method']}/{row['encoder']}"]
    name = row["row"]
    if name in ROWS:
        return [name]
    if name.startswith("zero_shot/"):
        return ["zero_shot/*", "zero_shot/best"]
    for kind in ("pet/g1/", "pet/"):
        if name.startswith(kind):
            return [f"{kind}*"]
    return [name]


def gap(found: Accuracies, student: str, where: str) -> tuple[float, int] | None:
    """Student minus SetFit on the same encoder, and over how many splits: all, where both have the same ones (the mean
    of differences is the difference of means); else those where both are known one by one.
    """
    ours, theirs = (found.get((name, where), []) for name in (f"student/{student}", f"setfit/{STUDENTS[student]}"))
    if covered(ours) != covered(theirs):
        both = {row["seed"] for row in ours if "seed" in row} & {row["seed"] for row in theirs if "seed" in row}
        ours, theirs = ([row for row in mine if row.get("seed") in both] for mine in (ours, theirs))
    if not ours or not theirs:
        return None
    return rows.together(ours).mean - rows.together(theirs).mean, len(covered(ours))


def covered(results: list[rows.Row]) -> set[int]:
    """The seeds of all of them."""
    return {seed for row in results for seed in rows.seeds(row)}


def main() -> None:
    found = read([Path(word) for word in sys.argv[1:]])
    sets = [name for name in SEEDS if any(where == name for _, where in found)]
    print("| accuracy, mean ± std (seeds) | " + " | ".join(sets) + " |")
    print("|---|" + "--:|" * len(sets))
    for row, title in ROWS.items():
        cells = [rows.together(found[row, name]).percent() if (row, name) in found else "" for name in sets]
        if any(cells):
            print(f"| {title} | " + " | ".join(cells) + " |")
    print()
    for student in STUDENTS:
        for name in sets:
            if apart := gap(found, student, name):
                points = f"{100 * apart[0]:+.1f} points to SetFit, paired over {apart[1]} seeds"
                print(f"- {name}, {ROWS[f'student/{student}'].strip('*')}: {points}")


if __name__ == "__main__":
    main()
