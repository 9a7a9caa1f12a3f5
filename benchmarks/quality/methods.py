"""Measures methods of prompt learning and their rivals on one set of splits: accuracy, trained parameters, seconds.

    python benchmarks/quality/methods.py --data FOLDER --work WORK --out RESULTS.jsonl --sets sst2,ag_news --seeds 3
    python benchmarks/quality/methods.py --table RESULTS.jsonl

Of soft prompts, this script has those that depend on the text; prompts.py has the others, on the same rows, backbone
and pattern. With
`--backbone qwen` the language model is Qwen2.5-Coder-0.5B instead of SmolLM2-135M. Appends each result as a line
{"set", "seed", "backbone", "method", "accuracy", "parameters", "seconds"} to the file. Results that are already in the
file are not measured again. `seconds` covers training and labeling of the first test examples.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.quality import prompts, rows
from benchmarks.quality.splits import SEEDS, comma_list, prepare
from pipelines.default_models import MINILM, MPNET, QWEN_CODER, SMOLLM2

BACKBONES = {"smollm2": SMOLLM2.asset, "qwen": QWEN_CODER.asset}
ENCODERS = {name: {"asset": model.asset, "max_length": 128} for name, model in (("MiniLM", MINILM), ("MPNet", MPNET))}
FINE_TUNING = {"learning_rate": 5e-5, "batch_size": 8, "epochs": 12, "warmup_ratio": 0.1}
CONTRASTIVE = {
    "learning_rate": 2e-5, "batch_size": 16, "steps": 40, "lr_scheduler": "constant", "warmup_ratio": 0.1,
    "average_last": 0.75,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Method:
    """A method: its row in the table, the step that measures it, and what it changes in the recipe."""

    title: str
    step: str
    """Name of the step. {pattern} and {seed} are replaced."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key -> value. None removes a key."""
    sources: tuple[str, ...] = ()
    """Sets whose prompts are mixed; that of the row itself is left out."""


def _pet(title: str, **changes: Any) -> Method:
    return Method(title, "pet/{pattern}/{seed}", {f"pet.{name.replace('__', '.')}": changes[name] for name in changes})


def _priming(title: str, **changes: Any) -> Method:
    return Method(title, "priming/{pattern}/{seed}", {"priming": {"shots": 4, **changes}})


def _member(title: str, member: dict[str, Any]) -> Method:
    return Method(title, f"{member['kind']}/other", {"members.other": member})


def _prompt(title: str, *, sources: tuple[str, ...] = (), **settings: Any) -> Method:
    methods = {"other": {"num_virtual_tokens": prompts.NUM_VIRTUAL_TOKENS, **settings}}
    if sources:
        methods["source"] = {"num_virtual_tokens": prompts.NUM_VIRTUAL_TOKENS}
    return Method(title, "prompts/{pattern}/other/{seed}", {"prompts.methods": methods}, sources)


METHODS: dict[str, Method] = {
    "zero_shot": Method("zero-shot pattern", "zero_shot/{pattern}", {"zero_shot": True}),
    "in_context": _priming("in-context learning, 4 demonstrations per label"),
    "in_context_bm25": _priming("in-context learning, retrieved by BM25", selection="retrieved"),
    "in_context_batch": _priming("in-context learning, batch calibration", calibration="batch"),
    "in_context_contextual": _priming("in-context learning, contextual calibration", calibration="contextual"),
    "in_context_orders": _priming("in-context learning, vote of 4 orders", num_orders=4),
    "pet_full": _pet("PET, all weights", tune="full", lora=None, training__learning_rate=1e-5),
    "pet_top": _pet(
        "PET, top two layers", tune="top_layers", num_top_layers=2, lora=None, training__learning_rate=1e-4
    ),
    "pet_adapter": _pet("PET, bottleneck adapters", tune="adapter", adapter_size=64, lora=None),
    "pet_ia3": _pet("PET, IA3", tune="ia3", lora=None, training__learning_rate=1e-2),
    "pet_lora": _pet("PET, LoRA"),
    "pet_dora": _pet("PET, DoRA", lora__dora=True),
    "pet_rslora": _pet("PET, rank-stabilized LoRA", lora__rslora=True),
    "pet_petal": Method(
        "PET, searched label words (PETAL)",
        "pet/{pattern}/{seed}",
        {"task.verbalizer": {}, "verbalizer_search": {}, "prompts": None, "ppt": None},
    ),
    "pet_edits": Method(
        "PET, pattern edited without gradients (GrIPS)",
        "pet/{pattern}/{seed}",
        {"pattern_search": {"edit": {}}, "prompts": None, "ppt": None},
    ),
    "pet_triggers": Method(
        "PET, trigger words found by gradients (AutoPrompt)",
        "pet/{pattern}/{seed}",
        {"pattern_search": {"gradient": {"num_words": 3}}, "prompts": None, "ppt": None},
    ),
    "idpg": _prompt("instance-dependent prompts (IDPG)", method="idpg", training=prompts.SLOW_TRAINING),
    "idpg_embeddings": _prompt(
        "instance-dependent prompts, read from embeddings",
        method="idpg",
        text_encoder="embeddings",
        training=prompts.SLOW_TRAINING,
    ),
    "attempt": _prompt(
        "mixture of prompts (ATTEMPT)", sources=("sst2", "ag_news"), method="attempt", training=prompts.SLOW_TRAINING
    ),
    "words": _member("TF-IDF + logistic regression", {"kind": "tfidf"}),
    "minilm_frozen": _member("MiniLM, frozen, logistic regression", {"kind": "probe", "encoder": ENCODERS["MiniLM"]}),
    "mpnet_frozen": _member("MPNet, frozen, logistic regression", {"kind": "probe", "encoder": ENCODERS["MPNet"]}),
    "minilm_finetuned": _member(
        "MiniLM, fine-tuned", {"kind": "finetuned", "encoder": ENCODERS["MiniLM"], "training": FINE_TUNING}
    ),
    "minilm_tuned": _member(
        "MiniLM, contrastive tuning",
        {"kind": "probe", "encoder": ENCODERS["MiniLM"], "contrastive": {"training": CONTRASTIVE}},
    ),
    "mpnet_tuned": _member(
        "MPNet, contrastive tuning",
        {"kind": "probe", "encoder": ENCODERS["MPNet"], "contrastive": {"training": CONTRASTIVE}},
    ),
}


def recipe(
    name: str, seed: int, method: Method, backbone: str, split: Path, sources: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Returns the recipe of the soft prompts with a hard pattern, with the changes of a method.

    Args:
        name: The set.
        seed: Its seed.
        method: The method.
        backbone: Name of the language model.
        split: Folder of the split.
        sources: Other set -> folder of its split, for a method that mixes prompts.
    """
    sections = prompts.recipe(name, seed, "hybrid", split)
    sections["name"] = f"methods-{name}-{seed}"
    sections["backbone"]["asset"] = BACKBONES[backbone]
    for key, value in method.changes.items():
        *parents, last = key.split(".")
        section = sections
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is None:
            del section[last]
        else:
            section[last] = value
    for other, folder in (sources or {}).items():
        added = prompts.recipe(other, seed, "hybrid", folder)
        sections["prompts"]["tasks"].append(
            {"pattern": f"{other}-hybrid", "task": added["task"], "data": added["data"]}
        )
    if sources is not None:
        trained = [{"task": f"{other}-hybrid", "method": "source"} for other in sources]
        methods = sections["prompts"]["methods"]
        sections["prompts"]["methods"] = {**methods, "other": {**methods["other"], "sources": ["ppt", *trained]}}
    if "priming" in sections:
        sections["priming"] = {**sections["priming"], "seeds": [seed]}
    return sections


def measure(name: str, seed: int, key: str, options: argparse.Namespace) -> rows.Row:
    """Runs the step of a method, with what it needs, and returns its result."""
    method = METHODS[key]
    split = prepare(name, seed, options.data, options.work / "splits", 8)
    sources = {
        other: prepare(other, SEEDS[other][0], options.data, options.work / "splits", 8).absolute()
        for other in method.sources
        if other != name
    }
    sections = recipe(name, seed, method, options.backbone, split.absolute(), sources or None)
    path = options.work / "recipes" / f"{name}-{seed}-{options.backbone}-{key}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(sections, sort_keys=False, allow_unicode=True), encoding="utf-8")
    step = method.step.format(pattern=f"{name}-hybrid", seed=seed)
    store = options.work / "stores" / f"{options.backbone}-{key}"  # of one method, whose step has one result
    clozeline = Path(sys.executable).with_name("clozeline")
    subprocess.run([str(clozeline), "run", str(path), "--store", str(store), "--until", step], check=True)
    head = {"set": name, "seed": seed, "backbone": options.backbone, "method": key}
    return {**head, **prompts.read(store / step)}


def table(path: Path) -> str:
    """Formats the results as Markdown."""
    cells: dict[tuple[str, str], dict[str, list[rows.Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows.read(path):
        cells[row["backbone"], row["method"]][row["set"]].append(row)
    names = [name for name in prompts.HARD if any(name in results for results in cells.values())]
    lines = [f"| | {' | '.join(names)} | trainable params | seconds |", "|---|" + "--:|" * (len(names) + 2)]
    for backbone in BACKBONES:
        for key, method in METHODS.items():
            results = cells.get((backbone, key))
            if results:
                measured = [row for found in results.values() for row in found]
                accuracies = [rows.combine(results[name]).percent() if results[name] else "" for name in names]
                title = method.title if backbone == "smollm2" else f"{method.title} (0.5B)"
                seconds = f"{rows.combine(measured, 'seconds').mean:.0f}"
                lines.append(f"| {title} | {' | '.join(accuracies)} | {measured[0]['parameters']:,} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that contains the sets")
    parser.add_argument("--work", type=Path, help="folder for splits, recipes and the store")
    parser.add_argument("--out", type=Path, help="file for the results, JSON lines")
    parser.add_argument(
        "--sets", type=comma_list(prompts.HARD), default=list(prompts.HARD), help="names of sets, separated by commas"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds per set")
    parser.add_argument(
        "--methods", type=comma_list(METHODS), default=list(METHODS), help="names of methods, separated by commas"
    )
    parser.add_argument("--backbone", choices=list(BACKBONES), default="smollm2", help="language model")
    parser.add_argument("--table", type=Path, help="print these results as Markdown and measure nothing")
    options = parser.parse_args()
    if options.table:
        print(table(options.table))
        return
    known = {(row["set"], row["seed"], row["backbone"], row["method"]) for row in rows.read(options.out)}
    for number in range(options.seeds):
        for name in options.sets:
            for key in options.methods:
                seed = SEEDS[name][number]
                if (name, seed, options.backbone, key) not in known:
                    rows.append(options.out, [measure(name, seed, key, options)])


if __name__ == "__main__":
    main()
