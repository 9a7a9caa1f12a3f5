"""Prints the comparison as Markdown: mean ± standard deviation over seeds, from the results of the other scripts.

    python benchmarks/quality/table.py benchmarks/quality/results/{ours,rivals}.jsonl

A cell shows the number of its seeds. The last lines compare the students with SetFit on the same encoder.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from benchmarks.quality import rows
from benchmarks.quality.splits import SEEDS

STUDENTS = {"minilm": "minilm", "mpnet_head": "mpnet", "mpnet": "mpnet"}
"""Student -> its encoder, with which SetFit is measured as well."""

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
"""Row of the results -> its title in the table."""

Accuracies = dict[tuple[str, str], list[rows.Row]]
"""(row of the table, set) -> its results, each of one seed or several; no seed occurs twice."""


def read(paths: list[Path]) -> Accuracies:
    """Reads all results. Averages the patterns of one kind for each seed."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[rows.Row]] = defaultdict(list)
    for path in paths:
        for row in rows.read(path):
            for name in names(row):
                groups[name, row["set"], tuple(rows.seeds(row))].append(row)
    accuracies: Accuracies = defaultdict(list)
    for (name, set_name, _), group in groups.items():
        values = [row["accuracy"] for row in group]
        accuracy = max(values) if name.endswith("/best") else statistics.fmean(values)
        accuracies[name, set_name].append({**group[0], "accuracy": accuracy})
    return accuracies


def names(row: rows.Row) -> list[str]:
    """Returns the rows of the table to which a result belongs."""
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


def difference_to_setfit(accuracies: Accuracies, student: str, set_name: str) -> tuple[float, int] | None:
    """Returns the accuracy of a student minus that of SetFit on the same encoder, and the number of splits.

    Uses all splits if both have the same ones, because the mean of differences is then the difference of means.
    Otherwise uses the splits for which both have a separate result.
    """
    ours, setfit = (
        accuracies.get((name, set_name), []) for name in (f"student/{student}", f"setfit/{STUDENTS[student]}")
    )
    if all_seeds(ours) != all_seeds(setfit):
        both = {row["seed"] for row in ours if "seed" in row} & {row["seed"] for row in setfit if "seed" in row}
        ours, setfit = ([row for row in results if row.get("seed") in both] for results in (ours, setfit))
    if not ours or not setfit:
        return None
    return rows.combine(ours).mean - rows.combine(setfit).mean, len(all_seeds(ours))


def all_seeds(results: list[rows.Row]) -> set[int]:
    """Returns the seeds of all results."""
    return {seed for row in results for seed in rows.seeds(row)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="files with results, JSON lines")
    accuracies = read(parser.parse_args().results)
    sets = [name for name in SEEDS if any(set_name == name for _, set_name in accuracies)]
    print("| accuracy, mean ± std (seeds) | " + " | ".join(sets) + " |")
    print("|---|" + "--:|" * len(sets))
    for row, title in ROWS.items():
        cells = [rows.combine(accuracies[row, name]).percent() if (row, name) in accuracies else "" for name in sets]
        if any(cells):
            print(f"| {title} | " + " | ".join(cells) + " |")
    print()
    for student in STUDENTS:
        for name in sets:
            if difference := difference_to_setfit(accuracies, student, name):
                points = f"{100 * difference[0]:+.1f} points compared with SetFit, over {difference[1]} seeds"
                print(f"- {name}, {ROWS[f'student/{student}'].strip('*')}: {points}")


if __name__ == "__main__":
    main()
