#!/usr/bin/env python3
"""Fails if a tracked file contains a word or a name that this project has replaced.

CHANGELOG.md and the files about renamed keys may contain them.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

EXCLUDED = (
    ".ci/check_words.py",
    "CHANGELOG.md",
    "LICENSE",
    "*renamed_keys*",
    "benchmarks/compare_results.py",
    "constraints.txt",
    "*.png",
    "*.safetensors",
    "tests/golden/*.json",
)

WORDS = (
    r"told|anew|mend(s|ed)?|piles?|whoever|shall|behind|beside|learnt|nobody|somebody"
    r"|(un)?label(led|ling)|colours?|neighbour\w*|behaviour\w*|favour\w*|cancelled(?!\()|grey"
    r"|(re)?(recogn|initial|normal|util|optim|token|parameter|parametr)is(e[ds]?|ing|ation)"
)
"""Words of prose, in any case: private terms and British spelling. CONTRIBUTING.md lists the terms to use."""

NAMES = {
    # recipe keys
    "gold_share": "gold_weight",
    "head_strength": "head_regularization_c",
    "hard_steps": "hard_prompt_steps",
    "keep_share": "keep_fraction",
    "label_names": "label_map",
    "num_taught": "max_student_examples",
    "num_vectors": "num_virtual_tokens",
    "offload_to": "nvme_path",
    "read_tokens": "eval_batch_tokens",
    "sentence_words": "max_sentence_words",
    "teacher_share": "teacher_fraction",
    # classes
    "AnswerFinder": "SpanExtractor",
    "CorruptResult": "CorruptResultError",
    "DiscreetConsole": "RedactingConsole",
    "DrawConfig": "SelectionConfig",
    "FileSlot": "FileLease",
    "GrowthConfig": "GenerationConfig",
    "LeaseHeld": "LeaseHeldError",
    "LeaseLost": "LeaseLostError",
    "LoopConfig": "TrainingConfig",
    "MissingUpstream": "MissingUpstreamError",
    "ModelQueue": "DynamicBatcher",
    "ObjectSlot": "ObjectLease",
    "OutdatedManifest": "OutdatedManifestError",
    "ProbeVoter": "ProbeSpec",
    "RefusedError": "RequestError",
    "SharedEngine": "DistributedEngine",
    "SilentRecorder": "NullRecorder",
    "SpanTask": "QuestionAnsweringTask",
    "StartConfig": "InitConfig",
    "StepEngine": "InProcessEngine",
    "StepReport": "StepResult",
    "StoreUnreachable": "StoreUnreachableError",
    "SubModelVoter": "SubModelSpec",
    "SwapError": "OffloadError",
    "SwapFolder": "OffloadFolder",
    "TokenTask": "TokenClassificationTask",
    "WorkersLost": "WorkersLostError",
    # functions, fields and constants
    "GRID": "PAD_TO_MULTIPLE_OF",
    "LEAVE_AFTER_S": "EXIT_DELAY_S",
    "LOOK_EVERY_S": "POLL_INTERVAL_S",
    "MAIN_FIGURES": "HEADLINE_METRICS",
    "NEUTRAL": "CONTENT_FREE_TEXTS",
    "PATIENCE_S": "GRACE_PERIOD_S",
    "SPREADS": "PARTITIONING",
    "TAUGHT": "PRETRAINED_TO",
    "answer_score": "squad_scores",
    "ask_at_sigterm": "install_sigterm_handler",
    "check_reach": "check_available",
    "check_together": "check_batched_training",
    "class_table": "per_class_report",
    "handed_down": "apply_default_resources",
    "is_asked": "stop_requested or is_preemption",
    "is_leaving": "is_shutting_down",
    "is_passing": "is_transient",
    "is_spread": "is_partitioned",
    "label_everything": "write_member_logits",
    "labels_pile": "label_unlabeled",
    "loss_of": "compute_loss",
    "main_figure": "headline_metric",
    "mixed_logits": "multi_task_logits",
    "num_drawn": "num_pseudo_labeled",
    "num_labelled": "num_labeled",
    "num_unlabelled": "num_unlabeled",
    "num_worse": "num_bad_evals",
    "on_grid": "round_up_length",
    "one_after_another": "map_sequentially",
    "out_of_reach": "unavailable_error",
    "read_hits": "read_correct",
    "record_scores": "log_test_scores",
    "roles_of": "input_indices",
    "rows_of_step": "batch_indices",
    "run_order": "run_task",
    "start_ids": "init_token_ids",
    "start_rows": "init_deep_vectors",
    "start_vectors": "init_vectors",
    "state_width": "hidden_size",
    "tag_score": "token_classification_scores",
    "train_together": "train_batched",
    "word_head": "label_word_logits",
}
"""Old name -> its replacement."""

PATTERN = re.compile(
    rf"(?<![A-Za-z])(?i:(?P<word>{WORDS}))(?![A-Za-z])"  # also as a part of test_words_with_underscores
    rf"|\b(?P<name>{'|'.join(NAMES)})\b"
)


def find_old_words(path: Path) -> list[str]:
    """Returns one line per match: position, word and replacement."""
    lines = path.read_text(encoding="utf-8").splitlines()
    results = []
    for number, line in enumerate(lines, 1):
        for match in PATTERN.finditer(line):
            name = match["name"]
            remedy = f"is now {NAMES[name]}" if name else "is not used here; see Words in CONTRIBUTING.md"
            results.append(f"{path.relative_to(ROOT)}:{number}: {match[0]!r} {remedy}")
    return results


def main() -> None:
    """Checks all tracked files, or those in the folders of the arguments."""
    command = ["git", "ls-files", "-z", *sys.argv[1:]]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
    results = [
        line
        for name in names
        if not any(fnmatch.fnmatch(name, pattern) for pattern in EXCLUDED)
        for line in find_old_words(ROOT / name)
    ]
    sys.exit("\n".join(results) or 0)


if __name__ == "__main__":
    main()
