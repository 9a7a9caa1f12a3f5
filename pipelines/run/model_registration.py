"""Registers the classifier and the prompts of a run in MLflow's model registry, as models that load without a checkout.

The classifier is the one that the report selected. Registers the first seed of each, which is also what `clozeline
predict` and `clozeline serve` use. Choosing the best of several seeds by test accuracy would fit the test set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

import pipelines
import stages
from cluster.run.result import RunResult, StepResult
from cluster.steps.plan import Plan
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.manifest import Manifest
from cluster.tracking.model_registry import Candidate, PyfuncSpec, delete_orphaned_models, register
from cluster.tracking.tracker import Tracker
from pipelines.kinds import KINDS
from pipelines.run.request import RunRequest
from stages.common.config import MULTI_LABEL, TextTaskConfig
from stages.common.models.backbones.config import BackboneConfig
from stages.generation.config import GenerationTask
from stages.probe.config import ProbeConfig
from stages.regression.config import RegressionTask

REQUIRED = (
    "filelock", "fsspec", "huggingface-hub", "numpy", "pandas", "peft", "pydantic", "pyyaml", "safetensors",
    "scikit-learn", "tokenizers", "torch", "transformers",
)  # fmt: skip
"""Distributions that a registered model imports to load and to predict."""
OUTPUTS = {"label": "string", "probabilities": "map"}
OF_TASKS: dict[type, dict[str, str]] = {
    GenerationTask: {"generated_text": "string"},
    RegressionTask: {"value": "double"},
}
"""Task that is not classification -> the outputs of its prompts."""


def pyfunc_spec() -> PyfuncSpec:
    """Returns how MLflow loads the models: with a copy of the current code, and these distributions."""
    return PyfuncSpec(
        module="pipelines.serving.pyfunc",
        code=[Path(str(package.__file__)).parent for package in (pipelines, stages)],
        # a local version such as +cpu is on no package index
        requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIRED],
    )


def register_models(
    request: RunRequest, planned: Plan, result: RunResult, tracker: Tracker, console: Console
) -> dict[str, str]:
    """Registers the models of a run and prints them. An error is printed as a warning, because the results are safe.

    Returns:
        Name -> fingerprint of the models that are registered now, or were.
    """
    names, found = [], {}
    try:
        tracker.deliver()
        delete_orphaned_models(tracker.client, tracker.experiment_id)
        for candidate in candidates(request, planned, result, partial(_run_of, tracker)):
            registered = register(tracker.client, candidate, pyfunc_spec())
            found[candidate.name] = candidate.fingerprint
            if registered.is_new:
                state = "champion" if registered.is_champion else registered.note
                names.append(f"{registered.name} {registered.number} ({state})")
    except Exception as error:  # of a database, a server or a disk
        problem = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        console.print(
            f"warning   not all models were registered in MLflow: {escape(problem)}. The results are in the store. "
            "The next run tries again; --no-register skips it.",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip
    if names:
        console.print(f"models    {escape(', '.join(names))}", highlight=False, soft_wrap=True)
    return found


def models_of(recipe: str, steps: Iterable[Step], manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Returns name -> fingerprint of the models that a run with these results registers.

    Args:
        recipe: Name of the recipe.
        steps: The selected steps.
        manifests: The results of all steps.
    """
    report = manifests.get("report")
    delivered = report.result["delivered"] if report else None
    named = registered_steps(recipe, steps, delivered["row"] if delivered else None)
    return {name: manifests[step.name].fingerprint for name, step in named.items()}


def candidates(
    request: RunRequest, planned: Plan, result: RunResult, run_of: Callable[[StepResult], str]
) -> Iterator[Candidate]:
    """Yields the classifier and each prompt with its test accuracy.

    Args:
        request: The recipe and the store.
        planned: The plan of the run.
        result: The run.
        run_of: Returns the MLflow run of a result.
    """
    manifests = {**planned.manifests, **result.manifests}
    report = result.manifests.get("report")
    delivered = report.result["delivered"] if report else None
    steps = [step for step in planned.steps.values() if step.name in result.manifests]
    for name, step in registered_steps(request.config.name, steps, delivered["row"] if delivered else None).items():
        manifest = result.manifests[step.name]
        data = step.inputs["data"]
        assert isinstance(data, Step)
        splits = manifests.get(data.name)
        if splits is None:
            continue  # the data were removed from the store during the run, so the test set is unknown
        signature = _signature(step.config)
        yield Candidate(
            name=name,
            step=step.name,
            fingerprint=manifest.fingerprint,
            run_id=run_of(result.steps[step.name]),
            folder=partial(_folder, request.store, step, manifest.fingerprint),
            example={field: f"Some {field.replace('_', ' ')}." for field in signature.fields},
            outputs=signature.outputs,
            accuracy=manifest.result["test"]["accuracy"],
            test_digest=splits.files["test.jsonl"].sha256,
            tags={
                "recipe": request.config.name,
                **({"backbone_ref": signature.backbone_ref} if signature.backbone_ref else {}),
            },
        )


def _run_of(tracker: Tracker, result: StepResult) -> str:
    """Returns the run that computed a result; the run of the pipeline if the server does not have that."""
    for run_id in (result.run_id, result.source_run_id):
        if run_id is not None and (found := tracker.find_run(run_id)):
            return found
    return tracker.run_id or ""


def registered_steps(recipe: str, steps: Iterable[Step], delivered: str | None) -> dict[str, Step]:
    """Returns the steps whose models are registered, as `demo.classifier` and `demo.prompts.TASK.METHOD`.

    Args:
        recipe: Name of the recipe.
        steps: Steps with a result. Of those that differ in the seed, the first is used.
        delivered: Row of the classifier; None if there is none.
    """
    registered: dict[str, Step] = {}
    for step in steps:
        if KINDS[step.kind].is_classifier and step.labels["row"] == delivered:
            registered.setdefault(f"{recipe}.classifier", step)
        elif step.kind == "prompts":
            registered.setdefault(f"{recipe}.prompts.{step.labels['task']}.{step.labels['method']}", step)
    return registered


def _folder(store: Store, step: Step, fingerprint: str) -> Path:
    files = store.files(step.name, fingerprint)
    return files / "model" if KINDS[step.kind].is_classifier else files


@dataclass(frozen=True, slots=True)
class _Signature:
    """Input fields and output columns of a model, and the pretrained model that it needs but does not contain."""

    fields: tuple[str, ...]
    outputs: dict[str, str]
    backbone_ref: str = ""


def _signature(config: Any) -> _Signature:
    if isinstance(config, TextTaskConfig):
        outputs = OUTPUTS | ({"label": "list"} if config.problem_type == MULTI_LABEL else {})
        frozen = config.encoder.asset if isinstance(config, ProbeConfig) and config.contrastive is None else ""
        return _Signature(config.fields, outputs, frozen)
    if hasattr(config.task, "kind"):
        fields = ("text",) if config.task.kind == "tokens" else ("question", "context")
        return _Signature(fields, {}, _backbone_ref(config.backbone))
    outputs = OF_TASKS.get(type(config.task), OUTPUTS)
    return _Signature(config.task.fields, outputs, _backbone_ref(config.backbone))


def _backbone_ref(backbone: BackboneConfig) -> str:
    return f"{backbone.asset} + {backbone.adapter}" if backbone.adapter else backbone.asset
