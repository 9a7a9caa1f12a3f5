"""Token labels and answer spans in a recipe: what fits together, and their steps.

data/<task>                     the sets
prompts/<task>/<method>/<seed>  prompt and head; the same names as other prompts have
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cluster.step import Resources, Step
from pipelines.schema.sections import PromptsSection, SpanTaskConfig, TokenTaskConfig
from pipelines.steps import prompt_formats
from stages import annotation_splits, annotation_tuning
from stages.annotation_splits import AnnotatedData
from stages.annotations.tasks import SpanTask, TokenTask
from stages.annotations.texts import AnnotationTask
from stages.errors import InputError
from stages.patterns.encoding import Family
from stages.prompts.methods import check_annotates
from stages.seeds import derive_seed
from stages.texts import assets

if TYPE_CHECKING:
    from pipelines.config import PipelineConfig


@dataclass(frozen=True, slots=True)
class Annotation:
    """A task of token labels or spans. place: its dotted place in the recipe; config: its section."""

    task: AnnotationTask
    config: TokenTaskConfig | SpanTaskConfig
    place: str

    @property
    def data(self) -> AnnotatedData:
        """Where its texts come from."""
        return self.config.data


def of(prompts: PromptsSection | None) -> list[Annotation]:
    """All of them, in the recipe's order."""
    if prompts is None:
        return []
    found = [
        Annotation(TokenTask(name=name, labels=item.labels), item, f"prompts.tokens.{name}")
        for name, item in prompts.tokens.items()
    ]
    for name, section in prompts.spans.items():
        settings = {key: getattr(section, key) for key in ("unanswerable", "max_answer", "overlap")}
        found.append(Annotation(SpanTask(name=name, **settings), section, f"prompts.spans.{name}"))
    return found


def check(config: PipelineConfig) -> None:
    """Refuses methods that such tasks cannot use, and names that are taken.

    Raises:
        InputError: names the key.
    """
    known = set(config.datasets)
    for item in of(config.prompts):
        assert config.prompts is not None
        if item.task.name in known:
            raise InputError(f"two tasks have the name {item.task.name}.", "Give each its own.", key=item.place)
        known.add(item.task.name)
        for name, method in config.prompts.methods.items():
            try:
                check_annotates(method)
            except InputError as error:
                raise InputError(error.problem, error.remedy, key=f"prompts.methods.{name}.{error.key}") from None
        if config.ppt and any(method.start == "ppt" for method in config.prompts.methods.values()):
            try:
                pretrained(config, item)
            except InputError as error:
                raise error.at(key=f"{item.place}.format") from None


def check_family(config: PipelineConfig, family: Family) -> None:
    """Refuses deep prompts where no state of a token sees them.

    Raises:
        InputError: names the key.
    """
    if family != "seq2seq" or not of(config.prompts):
        return
    assert config.prompts is not None
    for name, method in config.prompts.methods.items():
        if method.is_deep:
            raise InputError(
                f"the tokens of a text are read in the encoder, and {method.method} of a seq2seq model is for its "
                "decoder.",
                "Take method: prompt_tuning or p_tuning, or a masked or causal backbone.",
                key=f"prompts.methods.{name}.method",
            )


def check_data(config: PipelineConfig) -> None:
    """Reads every file.

    Raises:
        DataError: with the dotted place in the recipe as its key.
    """
    for item in of(config.prompts):
        try:
            annotation_splits.draw(annotation_splits.Config(task=item.task, data=item.data, seed=0))
        except InputError as error:
            place = item.place + "." + error.key if error.key else item.place
            raise type(error)(error.problem, error.remedy, key=place, where=error.where) from error


def pretrained(config: PipelineConfig, item: Annotation) -> int:
    """Which of `ppt.formats` its prompts start from, where they start from ppt.

    Raises:
        InputError: none of them is the one.
    """
    assert config.ppt is not None
    kind = prompt_formats.named_or_only(item.task.name, config.ppt.formats, item.config.format)
    return config.ppt.formats.index(kind)


def data_steps(config: PipelineConfig, resources: Resources) -> dict[str, Step]:
    """Task name -> the step that draws its sets."""
    return {item.task.name: _data(config, item, resources) for item in of(config.prompts)}


def _data(config: PipelineConfig, item: Annotation, resources: Resources) -> Step:
    name = f"data/{item.task.name}"
    return Step(
        name=name,
        run="stages.annotation_splits:run",
        config=annotation_splits.Config(task=item.task, data=item.data, seed=derive_seed(config.seed, name)),
        assets={key: assets.identity(source.asset) for key, source in item.data.sources.items()},
        resources=resources,
    )


def prompt_steps(config: PipelineConfig, data: dict[str, Step], ppt: Sequence[Step]) -> list[Step]:
    """A step for each task, method and seed."""
    make = partial(_prompt, config, data, ppt)
    section = config.prompts
    if section is None:
        return []
    return [make(item, method, seed) for item in of(section) for method in section.methods for seed in section.seeds]


def _prompt(
    config: PipelineConfig, data: dict[str, Step], ppt: Sequence[Step], item: Annotation, method: str, seed: int
) -> Step:
    assert config.prompts is not None
    settings = config.prompts.methods[method]
    name = f"prompts/{item.task.name}/{method}/{seed}"
    upstream = {"pretrained": ppt[pretrained(config, item)]} if settings.start == "ppt" else {}
    return Step(
        name=name,
        run="stages.annotation_tuning:run",
        config=annotation_tuning.Config(
            task=item.task,
            backbone=config.backbone,
            prompt=settings.prompt,
            loop=settings.loop or config.prompts.loop,
            seed=derive_seed(config.seed, name),
        ),
        inputs={"data": data[item.task.name], **upstream},
        assets={"backbone": assets.identity(config.backbone.asset)},
        resources=config.prompts.resources,
    )
