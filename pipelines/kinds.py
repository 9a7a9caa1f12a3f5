"""The kinds of steps: which rows, colors, seeds and data sets belong to each.

The key is the first part of a step's name.
"""

from __future__ import annotations

STEP_COLORS = {
    "data": "#9aa0a6",
    "ppt_examples": "#9aa0a6",
    "ppt": "#b06fc9",
    "verbalizer": "#8d6e63",
    "zero_shot": "#c9b458",
    "priming": "#a8923a",
    "pet": "#5b8def",
    "probe": "#3aa6a0",
    "soft_labels": "#2f5fc4",
    "distill": "#1b8a5a",
    "prompts": "#b06fc9",
    "baseline": "#9aa0a6",
    "report": "#444444",
}
ROW_KINDS = {
    "baseline": "baseline",
    "zero_shot": "zero-shot",
    "pet": "sub-model",
    "probe": "probe",
    "priming": "priming",
    "soft_labels": "ensemble",
    "distill": "student",
    "prompts": "prompt",
}
"""First part of a step's name -> what a row of such steps is."""
PRETRAINED_TO = {
    "pair": "relate sentences",
    "choice": "find the next sentence",
    "single": "label sentences",
    "unified": "choose among sentences",
}
"""Second part of the name of a pretraining step -> what its prompt learnt."""
SEEDED = ("baseline", "pet", "priming", "distill", "prompts")
"""First part of the names that end in a seed."""
ROW_NAMES = {"soft_labels": "ensemble", "distill": "student"}
"""First part of a step's name -> first part of its row's name, where they differ."""
ROW_COLORS = {
    "baseline": "#9aa0a6",
    "zero-shot": "#c9b458",
    "sub-model": "#5b8def",
    "probe": "#d9705f",
    "priming": "#a8764b",
    "ensemble": "#2f5fc4",
    "student": "#1b8a5a",
    "prompt": "#b06fc9",
}
MEMBER_KINDS = ("sub-model", "probe")
"""Kinds of rows that an ensemble is made of."""
SETS = ("train", "dev", "unlabeled", "test")
SETS_READ = {
    "data": SETS,
    "verbalizer": ("train", "unlabeled"),
    "zero_shot": ("test",),
    "priming": ("train", "test"),
    "soft_labels": ("unlabeled", "test"),
    "soft_label_shards": (),
    "ppt_examples": (),
    "distill": ("unlabeled", "dev", "test"),
    "baseline": ("train", "dev", "test"),
    "prompts": ("train", "dev", "test"),
    "report": (),
}
"""First part of a step's name -> the sets that decide its figures; of other steps, such as members, all of them.

A zero-shot step looks at the labelled texts too, for the ensemble's weights, and learns nothing from them.
"""
