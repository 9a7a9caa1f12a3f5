"""Writes a classifier of a run to a new folder, measures its files, and adds the model card."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from pipelines.export.model_card import CardFacts, FileMeasures, model_card
from pipelines.export.sources import ModelSource, find_sources
from pipelines.run.request import RunRequest
from pipelines.serving.model_lookup import classifier_step, plan_results, step_files
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.models.encoders.text_classifier import CLASSIFIER_FILE, WEIGHTS_FILE, TextClassifier
from stages.common.models.tfidf_classifier import WEIGHTS_FILE as TFIDF_WEIGHTS
from stages.common.models.tfidf_classifier import TfidfClassifier
from stages.common.problems import Gold, MultiLabel, Problem
from stages.common.protocols import LogitModel, NullRecorder, Recorder

CARD_FILE = "README.md"
MAX_MEASURED = 500
"""Test texts on which the files are measured: enough to see a difference of a percent, few enough for seconds."""
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """What to export.

    Args:
        row: Row of the leaderboard; None: the one that the report selected.
        onnx: Whether to write ONNX files of an encoder.
        licenses: Key of the recipe -> license of its model or data set.
    """

    row: str | None = None
    onnx: bool = True
    licenses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A folder that was written, and what its card says."""

    folder: Path
    facts: CardFacts

    @property
    def without_license(self) -> list[ModelSource]:
        """The sources whose license is unknown."""
        return [item for item in self.facts.sources if item.license is None]


def export_classifier(
    request: RunRequest, options: ExportOptions, output: Path, recorder: Recorder | None = None
) -> Exported:
    """Writes a classifier to the new folder `output`, which appears when it is complete.

    Args:
        request: The recipe and the store. The classifier must have a result.
        options: Which classifier, and which files.
        output: The folder; it must not exist.
        recorder: Gets the progress of the measurements.

    Raises:
        InputError: the folder exists, the classifier has no result, or a package for ONNX is not installed.
    """
    if output.exists():
        raise InputError(f"{output} exists.", "Set --output to a new folder.", key="--output")
    planned = plan_results(request)
    step = classifier_step(request, planned, options.row)
    files = step_files(request, planned, step)
    sources = find_sources(request.config, planned, step, options.licenses)
    data = planned.steps[f"data/{request.config.task.name}"]
    examples = load_examples(step_files(request, planned, data) / "test.jsonl")[:MAX_MEASURED]
    is_encoder = (files / "model" / CLASSIFIER_FILE).exists()
    has_onnx = options.onnx and is_encoder
    if has_onnx and (missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]):
        raise InputError(
            f"ONNX files need {', '.join(missing)}, which is not installed.",
            'Install the extra: pip install "clozeline[onnx]". Without ONNX files: --no-onnx.',
            key="--onnx",
        )
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=f".{output.name}-") as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        classifier = TextClassifier.load(files / "model") if is_encoder else TfidfClassifier.load(files / "model")
        classifier.save(folder)
        models: dict[str, LogitModel] = {WEIGHTS_FILE if is_encoder else TFIDF_WEIGHTS: classifier}
        if has_onnx:
            models |= _onnx_models(folder)
        result = planned.manifests[step.name].result
        facts = CardFacts(
            recipe=request.config.name,
            row=step.labels["row"],
            labels=classifier.labels,
            fields=classifier.fields,
            test=result["test"],
            num_labeled=result["num_labeled"],
            num_unlabeled=result["num_unlabeled"],
            sources=sources,
            measures=_measure(models, folder, examples, classifier.problem, recorder or NullRecorder()),
            num_measured=len(examples),
            truncation_side=_truncation_side(classifier),
            is_encoder=is_encoder,
            has_label_sets=isinstance(classifier.problem, MultiLabel),
            has_onnx=has_onnx,
        )
        (folder / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
        shutil.move(folder, output)
    return Exported(folder=output, facts=facts)


def _onnx_models(folder: Path) -> dict[str, LogitModel]:
    from pipelines.export import onnx_files  # noqa: PLC0415  (an optional extra)

    onnx_files.write_onnx(folder)
    names = (onnx_files.ONNX_FILE, onnx_files.INT8_FILE)
    return {name: onnx_files.OnnxClassifier(folder, name) for name in names}


def _truncation_side(classifier: TextClassifier | TfidfClassifier) -> str:
    return str(classifier.encoder.tokenizer.truncation_side) if isinstance(classifier, TextClassifier) else "right"


def _measure(
    models: Mapping[str, LogitModel],
    folder: Path,
    examples: Sequence[Example],
    problem: Problem,
    recorder: Recorder,
) -> list[FileMeasures]:
    """Returns speed, accuracy and agreement of each file on the examples."""
    gold = problem.gold_of(examples)
    measures: list[FileMeasures] = []
    first: Gold | None = None
    for file, model in models.items():
        model.predict(examples[:1], NullRecorder(), "")  # loads what is loaded only once
        started = time.perf_counter()
        logits = model.predict(examples, recorder, file)
        seconds = time.perf_counter() - started
        first = problem.predict(logits) if first is None else first
        measures.append(
            FileMeasures(
                file=file,
                num_bytes=(folder / file).stat().st_size,
                texts_per_s=len(examples) / max(seconds, 1e-9),
                accuracy=float(problem.is_right(logits, gold).mean()),
                same_labels=float(problem.is_right(logits, first).mean()),
            )
        )
    return measures
