"""Trials: steps that cross-validate one candidate with a number of training steps, and their results.

prompt_search/<task>/<candidate>/<steps>_steps
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.steps.step import Step
from cluster.store.manifest import Manifest
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from pipelines.search.space import Candidate, changed, searched_task
from stages.common.seeds import derive_seed
from stages.common.training.untrained_scores import HeldOutScore
from stages.prompt_tuning.search.config import PromptSearchConfig

NUM_FOLDS = 4
KIND = "prompt_search"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A candidate, and the step that judges it.

    Args:
        candidate: The candidate.
        rung: Number of its rung, from 1.
        num_steps: Training steps.
        step: Its step.
    """

    candidate: Candidate
    rung: int
    num_steps: int
    step: Step

    @property
    def is_complete(self) -> bool:
        """True if it trains as long as the recipe with this candidate does."""
        return self.num_steps == self.candidate.training.steps


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """The result of a trial.

    Args:
        trial: The trial.
        held_out: Accuracy and loss on held-out labeled examples.
        standard_error: Of the accuracy.
        fingerprint: Of its step, to read its files.
        seconds: Duration of its step, in this search or an earlier one.
        is_cached: Whether an earlier search, or an earlier start of this one, has committed it.
    """

    trial: Trial
    held_out: HeldOutScore
    standard_error: float
    fingerprint: str
    seconds: float
    is_cached: bool

    @classmethod
    def of(cls, trial: Trial, manifest: Manifest, *, is_cached: bool) -> TrialResult:
        """Reads the result of a trial from its manifest."""
        return cls(
            trial=trial,
            held_out=HeldOutScore(**manifest.result["held_out"]),
            standard_error=manifest.result["standard_error"],
            fingerprint=manifest.fingerprint,
            seconds=manifest.seconds,
            is_cached=is_cached,
        )


class TrialSteps:
    """Makes the steps of trials. They read the same upstream steps as a run of the recipe.

    Args:
        config: The recipe.
        steps: The steps of its run, by name.
    """

    def __init__(self, config: PipelineConfig, steps: Mapping[str, Step]) -> None:
        self._config = config
        self._item = searched_task(config)
        self.task, _ = config.prompt_task(self._item)
        self.data = steps[f"data/{self.task.name}"]
        self._ppt: Sequence[Step] = [steps[f"ppt/{name}"] for name in config.ppt.formats] if config.ppt else []

    def trial(self, candidate: Candidate, rung: int, num_steps: int) -> Trial:
        """Returns a trial of a candidate. All trials have one seed, so that they differ in their settings only."""
        config, prompt = self._config, candidate.prompt
        assert config.prompts is not None
        pretrained = self._ppt[config.pretrained_for(self._item)] if prompt.uses_ppt else None
        name = f"{KIND}/{self.task.name}/{candidate.name}/{num_steps}_steps"
        step = make_step(
            config,
            name,
            kind=KIND,
            run="stages.prompt_tuning.search.stage:run",
            config=PromptSearchConfig(
                task=self.task.only(candidate.pattern),
                pattern=candidate.pattern,
                backbone=config.language_model,
                prompt=prompt,
                training=changed(candidate.training, steps=num_steps),
                loss=config.prompts.loss,
                seed=derive_seed(config.seed, KIND, self.task.name),
                num_folds=NUM_FOLDS,
            ),
            inputs={
                "data": self.data,
                "pretrained": pretrained if prompt.init == "ppt" else None,
                "sources": [pretrained] if prompt.sources and pretrained else [],
            },
            resources=config.prompts.resources,
            task=self.task.name,
            method=prompt.method,
            pattern=candidate.pattern,
        )
        return Trial(candidate=candidate, rung=rung, num_steps=num_steps, step=step)


def trial_rows(results: Sequence[TrialResult]) -> list[dict[str, str | int | float | bool]]:
    """Returns one row per trial, for MLflow."""
    return [
        {
            "candidate": item.trial.candidate.name,
            "method": item.trial.candidate.prompt.method,
            "pattern": item.trial.candidate.pattern,
            "learning_rate": item.trial.candidate.training.learning_rate,
            "rung": item.trial.rung,
            "steps": item.trial.num_steps,
            "accuracy": round(item.held_out.accuracy, 4),
            "standard_error": round(item.standard_error, 4),
            "loss": round(item.held_out.loss, 4),
            "seconds": round(item.seconds, 1),
            "is_cached": item.is_cached,
        }
        for item in results
    ]
