"""Compares the committed results of two stores, step by step, and exits with 1 if they differ.

    python benchmarks/compare_results.py OLD_STORE NEW_STORE [--also OLD_STORE2]

Use it to prove that a refactoring changes no result: run a recipe with the code before it and with the code after it,
on the same machine, into two stores. Names that the refactoring changed are in `RENAMES`. Of a step that has several
results, the newest one is compared. What counts as equal:

- tensors (.safetensors, .npz, .pt): the same names, types, shapes and bytes;
- JSON, JSON lines and parquet: the same values. Paths, times, digests and versions are ignored (`IGNORED_KEYS`). Of
  prose only the numbers count (`PROSE_KEYS`);
- images: the same bytes, or they are listed as `reported`, because they contain words. Reported files are not failures;
- other files: the same bytes.

With `--also`, values that differ between two runs of the old code count as nondeterministic. For these, a difference of
up to 1e-6, absolute or relative, is within tolerance. `report.json` in the folder `reports` counts as a step as well.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow import parquet
from safetensors.torch import load_file

RENAMES: dict[str, dict[str, str]] = {
    # Steps, files, values: regular expression -> replacement. Keys: old key -> possible new keys, separated by spaces.
    # A name that the new store still has is never renamed, so an entry may list more than was renamed in the end.
    "steps": {
        r"(^|/)(pet|pet/[^/]+|prompts)/together$": r"\1\2/batched",
        r"^shards$": "soft_label_shards",
        r"^(distill|baseline)/(\d+)$": r"\1/small/\2",
    },
    "files": {
        r"(^|/)prompted\.json$": r"\1prompt_model.json",
        r"(^|/)annotating\.json$": r"\1token_level_model.json",
        r"(^|/)neutral_logits\.jsonl$": r"\1content_free_logits.jsonl",
        r"(^|/)drawn\.jsonl$": r"\1pseudo_labeled.jsonl",
        r"(^|/)details\.json$": r"\1page_data.json",
        r"(^|/)starts-([^/]+)\.png$": r"\1prompt_inits-\2.png",
    },
    "keys": {
        "about": "subject", "advice": "suggestions", "attempt": "action", "because": "evidence", "row": "method",
        "labelled": "labeled", "unlabelled": "unlabeled", "trained": "trainable_parameters",
        "num_labelled": "num_labeled", "num_unlabelled": "num_unlabeled num_unlabeled_examples",
        "num_drawn": "num_pseudo_labeled", "train_accuracy_before": "held_out_accuracy",
        "accuracy_before": "accuracy_before_training", "kept": "num_kept", "disputed": "disagreements",
        "found": "predicted prediction", "guess": "predicted", "sureness": "confidence", "votes": "member_logits",
        "loop": "training", "warmup": "warmup_ratio", "schedule": "lr_scheduler", "every": "eval_steps",
        "start": "init", "starts": "prompt_inits", "most_common": "num_candidate_tokens",
        "words": "text verbalizer label_words", "num_vectors": "num_virtual_tokens", "hidden": "encoder_hidden_size",
        "reparameterise": "reparameterization", "hard_steps": "hard_prompt_steps", "place": "position",
        "together": "batched_training batched", "num_taught": "max_student_examples", "gold_share": "gold_weight",
        "keep_share": "keep_fraction", "scale": "scale_factor", "teacher_share": "teacher_fraction",
        "most_confident": "num_most_likely", "mean": "average", "head_strength": "head_regularization_c",
        "strength": "regularization_c", "contrast": "contrastive", "share": "mlm_probability",
        "read_tokens": "eval_batch_tokens", "score": "label_score", "shorten": "truncation",
        "sentence_words": "max_sentence_words", "candidates": "candidates_per_example",
        "tokens": "token_classification", "spans": "question_answering", "max_answer": "max_answer_tokens",
        "keep": "filter", "label_names": "label_map", "offload_to": "nvme_path",
        "labels_pile": "label_unlabeled", "pile": "unlabeled", "num_texts": "num_examples",
    },
    "values": {
        r"^vocabulary$": "sample_vocab",
        r"^words$": "text|verbalizer",
        r"^pile$": "unlabeled",
        r"^tokens$": "token_classification",
        r"^spans$": "question_answering",
    },
}  # fmt: skip

IGNORED_KEYS = re.compile(
    r"^(seconds|wall_s|step_seconds|step_times|commit|versions|.*_version|version|fingerprint|.*_fingerprint|digest|"
    r".*_digest|path|.*_path|store|created|committed|committed_at)$"
)
"""Keys of JSON files whose values are not compared: paths, times, digests, versions."""

PROSE_KEYS = frozenset({"notes", "about", "because", "attempt", "subject", "evidence", "action", "rule"})
"""Keys with human-readable texts: their wording may change, their numbers may not."""

ADDED_KEYS = frozenset({"backbone", "precision", "task"})
"""Keys that only the new store has, in files that describe a trained model: folders load without their recipe."""

IMAGES = frozenset({".png", ".svg"})
TOLERANCE = 1e-6
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Difference:
    """Two values that differ. `size`: the smaller of the absolute and the relative difference; infinite for texts."""

    where: str
    text: str
    size: float = math.inf


def results(store: Path) -> dict[str, Path]:
    """Returns step name -> folder with the files of its newest committed result; and the reports."""
    newest: dict[str, Path] = {}
    for manifest in sorted(store.rglob("manifest.json"), key=lambda path: path.stat().st_mtime):
        if _FINGERPRINT.fullmatch(manifest.parent.name):
            # Manifests of earlier versions do not name the folder.
            files = manifest.parent / json.loads(manifest.read_text()).get("folder", "files")
            newest[manifest.parent.parent.relative_to(store).as_posix()] = files
    reports = {f"reports/{path.parent.name}": path.parent for path in store.glob("reports/*/report.json")}
    return dict(sorted(newest.items())) | reports


def files_of(step: str, folder: Path) -> dict[str, Path]:
    """Returns relative name -> file. Of a report only report.json: the others show times."""
    paths = [folder / "report.json"] if step.startswith("reports/") else sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}


READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": load_file,
    ".npz": lambda path: {name: torch.from_numpy(array) for name, array in np.load(path).items()},
    ".pt": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".parquet": lambda path: parquet.read_table(path).to_pylist(),
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()],
}


def renamed(kind: str, old: str) -> str:
    """Returns the new name of a step or file, or the new form of a value."""
    for pattern, replacement in RENAMES[kind].items():
        if re.search(pattern, old):
            return re.sub(pattern, replacement, old)
    return old


def new_name(kind: str, old: str, new: Mapping[str, Any]) -> str | None:
    """Returns the name in `new` that belongs to the name `old`, or None if there is none."""
    names = RENAMES["keys"].get(old, "").split() if kind == "keys" else [renamed(kind, old)]
    names += [renamed("steps", old)] if kind == "keys" else []
    return next((name for name in (old, *names) if name in new), None)


def differences(old: Any, new: Any, where: str = "", is_prose: bool = False) -> Iterator[Difference]:
    """Yields what differs between two values as `READERS` return them."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        old, new = ({str(key): value for key, value in item.items()} for item in (old, new))
        names = {key: new_name("keys", key, new) for key in old}
        for key in sorted(set(new) - set(names.values())):
            if not IGNORED_KEYS.match(key) and key not in ADDED_KEYS:
                yield Difference(f"{where}.{key}", "only in the new store")
        for key, name in names.items():
            if IGNORED_KEYS.match(key):
                continue
            if name is None:
                yield Difference(f"{where}.{key}", "only in the old store")
            else:
                yield from differences(old[key], new[name], f"{where}.{key}", is_prose or key in PROSE_KEYS)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        if len(old) != len(new):
            yield Difference(where, f"{len(old)} items -> {len(new)} items")
        for number, pair in enumerate(zip(old, new, strict=False)):
            yield from differences(*pair, f"{where}[{number}]", is_prose)
    elif isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        yield from _tensor_differences(old, new, where)
    elif isinstance(old, str) and isinstance(new, str):
        if not (_same_prose(old, new) if is_prose else _same_text(old, new)):
            yield Difference(where, f"{old[:60]!r} -> {new[:60]!r}")
    elif type(old) is not type(new) or (old != new and not (old != old and new != new)):  # NaN differs from itself
        size = abs(old - new) / max(1.0, abs(old), abs(new)) if type(old) is type(new) is float else math.inf
        yield Difference(where, f"{old!r} -> {new!r}", size)


def _tensor_differences(old: torch.Tensor, new: torch.Tensor, where: str) -> Iterator[Difference]:
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        yield Difference(where, f"{old.dtype} {tuple(old.shape)} -> {new.dtype} {tuple(new.shape)}")
    elif not torch.equal(*(item.contiguous().reshape(-1).view(torch.uint8) for item in (old, new))):
        one, other = old.double(), new.double()
        apart = (one - other).abs()
        size = float((apart / one.abs().maximum(other.abs()).clamp(min=1.0)).max())
        text = f"{int((apart != 0).sum())} of {apart.numel()} numbers differ, by up to {float(apart.max()):.3g}"
        yield Difference(where, text, math.inf if math.isnan(size) else size)


def _same_prose(old: str, new: str) -> bool:
    return sorted(_NUMBER.findall(old)) == sorted(_NUMBER.findall(new))


def _same_text(old: str, new: str) -> bool:
    return new in (old, renamed("steps", old), *renamed("values", old).split("|"))


def compare_file(old: Path, new: Path) -> list[Difference]:
    """Returns what differs between two files."""
    if old.read_bytes() == new.read_bytes():
        return []
    reader = READERS.get(old.suffix)
    return list(differences(reader(old), reader(new))) if reader else [Difference("", "other bytes")]


def compare_step(step: str, old: Path, new: Path) -> dict[str, list[Difference]]:
    """Returns file -> what differs; an empty list for files that are equal."""
    ours, theirs = files_of(step, old), files_of(step, new)
    names = {name: new_name("files", name, theirs) for name in ours}
    found = {name: [Difference("", "only in the new store")] for name in set(theirs) - set(names.values())}
    for name, other in names.items():
        missing = [Difference("", "only in the old store")]
        found[name] = missing if other is None else compare_file(ours[name], theirs[other])
    return dict(sorted(found.items()))


def compare_stores(old: Path, new: Path) -> dict[str, dict[str, list[Difference]]]:
    """Returns step -> file -> what differs."""
    ours, theirs = results(old), results(new)
    names = {step: new_name("steps", step, theirs) for step in ours}
    found: dict[str, dict[str, list[Difference]]] = {}
    for step, other in names.items():
        missing = {"": [Difference("", "the new store has no such step")]}
        found[step] = missing if other is None else compare_step(step, ours[step], theirs[other])
    extra = {step: {"": [Difference("", "only in the new store")]} for step in set(theirs) - set(names.values())}
    return found | dict(sorted(extra.items()))


def verdict(file: str, found: list[Difference], unsteady: set[str]) -> str:
    """Returns `equal`, `tolerance`, `reported` or `different`. `unsteady`: places that differ between two old runs."""
    if not found:
        return "equal"
    if all(item.where in unsteady and item.size <= TOLERANCE for item in found):
        return "tolerance"
    is_image = Path(file).suffix in IMAGES and all(item.text == "other bytes" for item in found)
    return "reported" if is_image else "different"


def main() -> int:
    """Prints a table of steps and what differs; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path, help="store of the old code")
    parser.add_argument("new", type=Path, help="store of the new code")
    parser.add_argument("--also", type=Path, help="another store of the old code, to find what is nondeterministic")
    parser.add_argument("--details", type=int, default=5, help="differences to print per file (default: 5)")
    options = parser.parse_args()
    steps = compare_stores(options.old, options.new)
    unsteady = compare_stores(options.old, options.also) if options.also else {}
    width = max((len(step) for step in steps), default=4)
    totals: Counter[str] = Counter()
    lines = []
    print(f"{'step':<{width}}  files  equal  tolerance  reported  different")
    for step, files in steps.items():
        counts: Counter[str] = Counter()
        for file, found in files.items():
            places = {item.where for item in unsteady.get(step, {}).get(file, [])}
            kind = verdict(file, found, places)
            counts[kind] += 1
            if kind != "equal":
                lines += [f"{kind:<9}  {step}: {file}{item.where}: {item.text}" for item in found[: options.details]]
        totals += counts
        row = [sum(counts.values()), counts["equal"], counts["tolerance"], counts["reported"], counts["different"]]
        print(f"{step:<{width}}  {row[0]:>5}  {row[1]:>5}  {row[2]:>9}  {row[3]:>8}  {row[4]:>9}")
    for step, files in unsteady.items():
        lines += [f"unsteady   {step}: {file}{item.where}: {item.text}"
                  for file, found in files.items() for item in found[: options.details]]  # fmt: skip
    print("\n".join(["", *lines, ""]) if lines else "")
    print(f"{len(steps)} steps, {sum(totals.values())} files: {totals['equal']} equal, {totals['tolerance']} within "
          f"tolerance, {totals['reported']} reported, {totals['different']} different")  # fmt: skip
    return 1 if totals["different"] or not steps else 0


if __name__ == "__main__":
    sys.exit(main())
