"""Runs a stage as the engine does, and reads its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from stages.common.config import Config
from stages.common.data.step_outputs import read_logits
from stages.common.engine import InProcessEngine
from stages.common.examples import load_examples, write_examples
from stages.common.protocols import LogitModel, NullRecorder
from stages.common.training.cross_validation import stratified_folds

LABELS = ("rotten", "fresh")
SILENT = NullRecorder()


@dataclass
class Kept(NullRecorder):
    """Keeps curves, figures and tables."""

    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    tables: dict[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        self.points.setdefault(name, []).append((step, value))

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every curve."""
        return {name: points[-1][1] for name, points in self.points.items()}

    def log_figure(self, name: str, figure: Figure) -> None:
        self.figures[name] = figure

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.tables[name] = rows


def run(stage: Any, config: Any, inputs: Any, out: Path, recorder: Any = SILENT) -> Any:
    """Runs a stage into an empty folder, and writes its result next to its files."""
    out.mkdir(parents=True)
    torch.manual_seed(len(str(out)))  # a stage must not depend on earlier random numbers
    result = stage.run(config, inputs, out, recorder, InProcessEngine())
    (out / "result.json").write_text(json.dumps(asdict(result)))
    return result


def logits_of(folder: Path, name: str = "test_logits") -> np.ndarray:
    """Returns the logits that a stage wrote, [n, 2]."""
    return read_logits(folder / f"{name}.jsonl", LABELS).logits


def held_out_by_hand(stage: Any, config: Any, make_inputs: Any, data: Path, num_folds: int) -> np.ndarray:
    """Returns the logits [n, 2] of the labeled set: one run of a stage per fold, with the fold as the test set.

    Args:
        stage: A stage that trains on the labeled set.
        config: Its config, without cross-validation.
        make_inputs: Makes its inputs from `data`.
        data: Files of the split stage.
        num_folds: Number of folds.
    """
    train_set = load_examples(data / "train.jsonl")
    folds = stratified_folds([LABELS.index(item.label or "") for item in train_set], num_folds)
    assert folds is not None
    logits = np.zeros((len(train_set), len(LABELS)))
    for fold in range(num_folds):
        folder = data.parent / f"by-hand-{fold}"
        own_data = Path(shutil.copytree(data, folder / "data"))
        for name, is_chosen in (("train", folds != fold), ("test", folds == fold)):
            write_examples(own_data / f"{name}.jsonl", [train_set[row] for row in np.flatnonzero(is_chosen)])
        run(stage, config, make_inputs(data=own_data), folder / "out")
        logits[folds == fold] = logits_of(folder / "out")
    return logits


def written(folder: Path) -> dict[str, bytes]:
    """Returns name -> content of weights, logits and result."""
    files = (path for path in folder.rglob("*") if path.suffix in (".safetensors", ".jsonl"))
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return contents | {"result": (folder / "result.json").read_bytes()}


def assert_a_seed_decides(once: Callable[[int, str], dict[str, bytes]]) -> None:
    """Checks that equal seeds give equal files, and another seed other weights. `once` takes a seed and a name."""
    first, again, other = once(5, "first"), once(5, "again-after-other-draws"), once(6, "other")
    assert first == again
    weights = [name for name in first if name.endswith(".safetensors")]
    assert weights
    assert all(first[name] != other[name] for name in weights)


def assert_student_has_the_label_bias(
    stage: ModuleType, settings: Config, inputs: Any, load: Callable[[Path], LogitModel], out: Path
) -> None:
    """Checks that a student has the bias of its ensemble, also in its files, but does not teach it.

    Args:
        stage: A stage of distillation, which writes to folders in `out`.
        settings: Its config, with `label_unlabeled`.
        inputs: Its inputs. The result of the ensemble is overwritten.
        load: Loads the student from its folder.
        out: Existing folder.
    """
    facts = inputs.soft_labels / "result.json"
    biases_of: dict[str, dict[str, list[float]]] = {
        "older": {},
        "plain": {"label_bias": [0, 0]},
        "biased": {"label_bias": [-1.5, 1.5]},
    }
    for name, biases in biases_of.items():
        facts.write_text(json.dumps({"num_labeled": 8, **biases}))
        run(stage, settings, inputs, out / name)
    older, plain, biased = (logits_of(out / name) for name in ("older", "plain", "biased"))
    assert np.array_equal(older, plain), "results of code without biases have none"
    np.testing.assert_allclose(biased - plain, np.tile([-1.5, 1.5], (len(plain), 1)), atol=5e-4)
    unlabeled, unlabeled_biased = (logits_of(out / name, "unlabeled_logits") for name in ("plain", "biased"))
    np.testing.assert_allclose(unlabeled, unlabeled_biased, atol=5e-4)
    loaded = load(out / "biased" / "model").predict(load_examples(inputs.data / "test.jsonl"), SILENT, "")
    np.testing.assert_allclose(loaded, biased, atol=2e-5)
