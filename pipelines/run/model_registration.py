"""Registers the student and the prompts of a run in MLflow's model registry, as models that load anywhere.

Registers the first seed of each, which is also what `clozeline predict` and `clozeline serve` use. Choosing the best of
several seeds by test accuracy would fit the test set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

import pipelines
import stages
from cluster.run.result import RunResult
from cluster.steps.step import Step
from cluster.store.manifest import Manifest
from cluster.tracking.model_registry import Candidate, PyfuncSpec, delete_orphaned_models, register
from cluster.tracking.tracker import Tracker
from pipelines.run.request import RunRequest

REQUIRED = (
    "filelock", "fsspec", "huggingface-hub", "numpy", "pandas", "peft", "pydantic", "pyyaml", "safetensors",
    "scikit-learn", "tokenizers", "torch", "transformers",
)  # fmt: skip
"""Distributions that the carried code imports when a model is loaded and asked."""
OUTPUTS = {"label": "string", "probabilities": "map"}


def pyfunc_spec() -> PyfuncSpec:
    """How the models are loaded: by the code of this moment, which they carry. Only distributions are asked for."""
    return PyfuncSpec(
        module="pipelines.serving.pyfunc",
        code=[Path(str(package.__file__)).parent for package in (pipelines, stages)],
        # +cpu and the like name a build, which no index lists beside the plain version
        requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIRED],
    )


def register_models(
    request: RunRequest,
    steps: list[Step],
    outcome: RunResult,
    manifests: Mapping[str, Manifest],
    tracker: Tracker,
    console: Console,
) -> None:
    """Registers what this run has a result for, and says so. Nothing that fails here loses the run: it is a warning."""
    told = []
    try:
        delete_orphaned_models(tracker.client, tracker.client.get_run(tracker.parent.run_id).info.experiment_id)
        for candidate in candidates(request, steps, outcome, manifests):
            found = register(tracker.client, candidate, pyfunc_spec())
            if found.is_new:
                about = "champion" if found.is_champion else found.note
                told.append(f"{found.name} {found.number} ({about})")
    except Exception as error:  # of a database, a server, a disk: the results are in the store whatever happens
        problem = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        console.print(
            f"warning  the models are not all in MLflow's registry: {escape(problem)}. The results are in the store; "
            "the next run tries again, --no-register does not.",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip
    if told:
        console.print(f"models  {escape(', '.join(told))}", highlight=False, soft_wrap=True)


def candidates(
    request: RunRequest, steps: list[Step], outcome: RunResult, manifests: Mapping[str, Manifest]
) -> Iterator[Candidate]:
    """The student and each prompt, with what was measured."""
    named: dict[str, Step] = {}
    for step in steps:
        name = model_name(request.config.name, step.name)
        if name and step.name in outcome.manifests:
            named.setdefault(name, step)
    for name, step in named.items():
        manifest = outcome.manifests[step.name]
        data = next(item for item in step.upstream() if item.name.startswith("data/"))
        drawn, run_id = manifests.get(data.name), outcome.steps[step.name].run_id
        if drawn is None or run_id is None:
            continue  # taken out of the store meanwhile: its test set cannot be named any more
        example, outputs, needs = _shape(step.config)
        yield Candidate(
            name=name,
            step=step.name,
            fingerprint=manifest.fingerprint,
            run_id=run_id,
            folder=partial(_folder, request, manifest),
            example=example,
            outputs=outputs,
            accuracy=manifest.result["test"]["accuracy"],
            test_digest=drawn.files["test.jsonl"].sha256,
            tags={"recipe": request.config.name, **({"needs": needs} if needs else {})},
        )


def model_name(recipe: str, step: str) -> str | None:
    """`demo.student`, `demo.prompts.TASK.METHOD`; None for steps that are no model to use."""
    kind, *rest = step.split("/")
    if kind == "distill":
        return f"{recipe}.student"
    return f"{recipe}.prompts.{rest[0]}.{rest[1]}" if kind == "prompts" and len(rest) == 3 else None


def _folder(request: RunRequest, manifest: Manifest) -> Path:
    files = request.store.files(manifest.step, manifest.fingerprint)
    return files / "model" if manifest.step.startswith("distill/") else files


def _shape(config: Any) -> tuple[dict[str, str], dict[str, str], str]:
    """A row of input, the output's columns, and what a model does not carry: the backbone of a prompt."""
    if hasattr(config, "student"):
        return _row(config.fields), OUTPUTS, ""
    if hasattr(config.task, "kind"):
        fields = ("text",) if config.task.kind == "tokens" else ("question", "context")
        return _row(fields), {}, config.backbone.asset
    return _row(config.task.fields), OUTPUTS, config.backbone.asset


def _row(fields: tuple[str, ...]) -> dict[str, str]:
    return {name: f"Some {name.replace('_', ' ')}." for name in fields}
