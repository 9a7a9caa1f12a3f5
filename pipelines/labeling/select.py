"""`clozeline select`: writes the unlabeled texts that are worth labeling next to a file that the next run reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from cluster.steps.plan import Plan
from pipelines.labeling.label_file import LABEL_COLUMN, LabelFile, check_one_label
from pipelines.labeling.selection import choose_informative, choose_typical
from pipelines.run.request import RunRequest
from pipelines.serving.model_lookup import plan_results, step_files
from stages.common.data.config import Source
from stages.common.data.step_outputs import aligned, read_logits
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.metrics.classification import softmax
from stages.common.seeds import derive_seed
from stages.common.training.evaluation import UNLABELED_FILE
from stages.splits.config import SplitsConfig
from stages.splits.stage import sample_splits

KEY = "annotated"
_DATA_SECTION = re.compile(r"^data:[ \t]*(?:#.*)?\n(?P<indent>[ ]+)\S", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """Texts that were added to a label file.

    Args:
        path: The file.
        num_added: Texts that were added.
        num_waiting: All texts of the file without a label.
        method: informative: by the results of a run. typical: by the texts alone.
        is_in_recipe: Whether the recipe reads the file.
        source: The value of the key `data.annotated`.
    """

    path: Path
    num_added: int
    num_waiting: int
    method: Literal["informative", "typical"]
    is_in_recipe: bool
    source: dict[str, Any]


def select_texts(request: RunRequest, number: int, output: Path | None = None) -> Selected:
    """Adds texts to the label file of a recipe, and the file to the recipe if it does not name it.

    Args:
        request: The recipe and the store. Without a run, the texts are chosen that are typical of all.
        number: Texts to add.
        output: The label file. Default: the one that the recipe names, or RECIPE.labels.csv next to the recipe.

    Raises:
        InputError: there are no unlabeled texts, or all of them are in the file.
    """
    config = request.config
    check_one_label(config.task)
    if not config.has_unlabeled:
        raise InputError(f"{request.recipe} has no unlabeled texts.", "Set data.unlabeled.", key="data.unlabeled")
    named = [source for key, source in config.data.sources.items() if key.partition(".")[0] == KEY]
    path = output or _default_path(request, named)
    file = LabelFile.open(path, config.task.fields)
    planned = plan_results(request)
    known = file.keys()
    examples = [item for item in _unlabeled(request, planned) if file.key(item.fields) not in known]
    if not examples:
        raise InputError("all unlabeled texts are in the file.", "Add texts to data.unlabeled.", key="data.unlabeled")
    texts = ["\n".join(item.fields[name] for name in config.task.fields) for item in examples]
    seed = derive_seed(config.seed, f"select/{len(file.rows)}") % 2**32  # scikit-learn takes 32 bits
    results = _results(request, planned, [item.uid for item in examples])
    if results is None:
        chosen = choose_typical(texts, number, seed)
    else:
        chosen = choose_informative(texts, *results, number, seed)
    for index in chosen:
        file.add(examples[index].fields)
    file.write()
    source = {"asset": path.name, "fields": {name: name for name in file.fields}, "label": LABEL_COLUMN}
    is_named = any(Path(item.asset).absolute() == path.absolute() for item in named)
    return Selected(
        path=path,
        num_added=len(chosen),
        num_waiting=len(file.rows) - file.num_labeled,
        method="typical" if results is None else "informative",
        is_in_recipe=is_named or (not named and _add_to_recipe(request.path, path, source)),
        source=source,
    )


def _default_path(request: RunRequest, named: Sequence[Source]) -> Path:
    if named:
        return Path(named[-1].asset)
    return (Path() if _is_included(request.path) else request.path.parent) / f"{request.path.stem}.labels.csv"


def _is_included(path: Path) -> bool:
    """Returns True for a recipe of this package."""
    return Path(__file__).parents[1] in path.absolute().parents


def _unlabeled(request: RunRequest, planned: Plan) -> Sequence[Example]:
    """Returns the unlabeled set: of the last run, or as a run would sample it."""
    step = planned.steps[f"data/{request.config.task.name}"]
    if step.name in planned.manifests:
        return load_examples(step_files(request, planned, step) / "unlabeled.jsonl")
    assert isinstance(step.config, SplitsConfig)
    return sample_splits(step.config).unlabeled


def _results(
    request: RunRequest, planned: Plan, uids: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Returns the probabilities of the ensemble and the logits of its members; None before a run."""
    step = planned.steps.get("soft_labels")
    if step is None or step.name not in planned.manifests:
        return None
    labels = request.config.task.labels
    files = step_files(request, planned, step)
    soft_labels_nC = aligned(read_logits(files / "soft_labels.jsonl", labels), uids)
    members = step.inputs["members"]
    assert isinstance(members, tuple)
    logits = [
        aligned(read_logits(step_files(request, planned, member) / UNLABELED_FILE, labels), uids) for member in members
    ]
    return softmax(soft_labels_nC), np.stack(logits)


def _add_to_recipe(recipe: Path, file: Path, source: dict[str, Any]) -> bool:
    """Adds the key `data.annotated` to a recipe, whose other lines stay as they are. Returns whether it did.

    Args:
        recipe: The recipe.
        file: The label file. It is named by its path from the folder of the recipe, so it must be next to it.
        source: The value of the key.
    """
    if _is_included(recipe) or file.absolute().parent != recipe.absolute().parent:
        return False
    text = recipe.read_text(encoding="utf-8")
    section = _DATA_SECTION.search(text)
    if section is None:
        return False
    value = yaml.safe_dump(source, default_flow_style=True, sort_keys=False, width=1000, allow_unicode=True).strip()
    start = section.start("indent")
    changed = f"{text[:start]}{section['indent']}{KEY}: {value}\n{text[start:]}"
    if yaml.safe_load(changed)["data"].get(KEY) != source:
        return False
    temporary = recipe.with_name(f".{recipe.name}.part")
    temporary.write_text(changed, encoding="utf-8")
    temporary.replace(recipe)
    return True
