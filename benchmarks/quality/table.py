"""The comparison as Markdown: mean ± standard deviation over seeds, from the results of `ours.py` and `rivals.py`.

    python benchmarks/quality/table.py RESULTS.jsonl...

A cell says over how many seeds it is; the last lines compare the students with SetFit on the same encoder.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ENCODERS = ("minilm", "mpnet")
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

Accuracies = dict[tuple[str, str], dict[int, float]]
"""(row, set) -> seed -> accuracy."""


def read(paths: list[Path]) -> Accuracies:
    """All results; patterns of one kind are averaged seed by seed."""
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for name in names(row):
                found[name, row["set"]][row["seed"]].append(row["accuracy"])
    best = {key: max if key[0].endswith("/best") else statistics.fmean for key in found}
    return {key: {seed: best[key](values) for seed, values in seeds.items()} for key, seeds in found.items()}


def names(row: dict[str, Any]) -> list[str]:
    """The rows of the table to which a result belongs."""
    if "method" in row:
        return [f"{row['method']}/{row['encoder']}"]
    name = row["row"]
    if name.startswith("zero_shot/"):
        return ["zero_shot/*", "zero_shot/best"]
    for kind in ("pet/g1/", "pet/"):
        if name.startswith(kind):
            return [f"{kind}*"]
    return [name]


def cell(seeds: dict[int, float]) -> str:
    """`77.8 ± 0.6 (5)`."""
    values = [100 * value for value in seeds.values()]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread} ({len(values)})"


def main() -> None:
    found = read([Path(word) for word in sys.argv[1:]])
    sets = list(dict.fromkeys(name for _, name in found))
    print("| accuracy, mean ± std (seeds) | " + " | ".join(sets) + " |")
    print("|---|" + "--:|" * len(sets))
    for row, title in ROWS.items():
        cells = [cell(found[row, name]) if (row, name) in found else "" for name in sets]
        if any(cells):
            print(f"| {title} | " + " | ".join(cells) + " |")
    print()
    for encoder in ENCODERS:
        for name in sets:
            ours, theirs = found.get((f"student/{encoder}", name)), found.get((f"setfit/{encoder}", name))
            if ours and theirs:
                both = sorted(set(ours) & set(theirs))
                gap = statistics.fmean(100 * (ours[seed] - theirs[seed]) for seed in both) if both else float("nan")
                print(f"- {name}, {encoder}: student - SetFit = {gap:+.1f} points, paired over {len(both)} seeds")


if __name__ == "__main__":
    main()
