"""Prints the comparison as Markdown: mean ± standard deviation over seeds, from the results of the other scripts.

    python benchmarks/quality/table.py benchmarks/quality/results/{default,rivals}.jsonl

A cell shows the number of its seeds. The last lines compare rows of the default recipe with its baselines and with
SetFit, over the splits that both have.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality import rows
from benchmarks.quality.splits import SEEDS

ROWS = {
    "logreg/minilm": "MiniLM embeddings + logistic regression",
    "logreg/mpnet": "MPNet embeddings + logistic regression",
    "setfit/minilm": "SetFit 1.2, MiniLM",
    "setfit/mpnet": "SetFit 1.2, MPNet",
    "baseline/small": "baseline of the small student: fine-tuned on the labels",
    "baseline/base": "baseline of the base student: fine-tuned on the labels",
    "tfidf/words": "member: TF-IDF",
    "probe/small_frozen": "member: small encoder, frozen",
    "probe/small_tuned": "member: small encoder, tuned",
    "probe/base_frozen": "member: base encoder, frozen",
    "probe/base_tuned": "member: base encoder, tuned",
    "ensemble": "ensemble",
    "student/small": "**small student**",
    "student/base": "**base student**",
    "delivered": "**delivered**",
}
"""Row of the results -> its title in the table."""

DIFFERENCES = (
    ("student/small", "baseline/small"),
    ("student/base", "baseline/base"),
    ("student/small", "setfit/minilm"),
    ("student/small", "setfit/mpnet"),
    ("student/base", "setfit/mpnet"),
)
"""Pairs of rows that are compared over the splits that both have."""

Results = dict[tuple[str, str], list[rows.Row]]
"""(row of the table, set) -> its results, each of one seed or several; no seed occurs twice."""


def read(paths: Sequence[Path], variant: str) -> Results:
    """Reads all results. `variant`: settings of the default recipe."""
    results: Results = defaultdict(list)
    for path in paths:
        for row in rows.read(path):
            if row.get("variant", variant) != variant or "accuracy" not in row:
                continue
            name = f"{row['method']}/{row['encoder']}" if "method" in row else row["row"]
            results[name, row["set"]].append(row)
            if row.get("is_delivered"):
                results["delivered", row["set"]].append(row)
    return results


def difference(results: Results, first: str, second: str, set_name: str) -> tuple[float, int] | None:
    """Returns the accuracy of the first row minus that of the second, and the number of splits.

    Uses all splits if both have the same ones, because the mean of differences is then the difference of means.
    Otherwise uses the splits for which both have a separate result.
    """
    one, other = (results.get((name, set_name), []) for name in (first, second))
    if all_seeds(one) != all_seeds(other):
        both = {row["seed"] for row in one if "seed" in row} & {row["seed"] for row in other if "seed" in row}
        one, other = ([row for row in group if row.get("seed") in both] for group in (one, other))
    if not one or not other:
        return None
    return rows.combine(one).mean - rows.combine(other).mean, len(all_seeds(one))


def all_seeds(results: Sequence[rows.Row]) -> set[int]:
    """Returns the seeds of all results."""
    return {seed for row in results for seed in rows.seeds(row)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="files with results, JSON lines")
    parser.add_argument("--variant", default="default", help="settings of the default recipe")
    options = parser.parse_args()
    results = read(options.results, options.variant)
    sets = [name for name in SEEDS if any(set_name == name for _, set_name in results)]
    print("| accuracy, mean ± std (seeds) | " + " | ".join(sets) + " |")
    print("|---|" + "--:|" * len(sets))
    for row, title in ROWS.items():
        cells = [rows.combine(results[row, name]).percent() if (row, name) in results else "" for name in sets]
        if any(cells):
            print(f"| {title} | " + " | ".join(cells) + " |")
    print()
    for first, second in DIFFERENCES:
        for name in sets:
            if found := difference(results, first, second, name):
                points = f"{100 * found[0]:+.1f} points, over {found[1]} seeds"
                print(f"- {name}, {first} minus {second}: {points}")


if __name__ == "__main__":
    main()
