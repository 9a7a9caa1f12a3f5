"""Rules about several sections of a recipe, one function per rule. Each raises `InputError` with the dotted key."""

from __future__ import annotations

import re

from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections import prompts
from pipelines.schema.sections.ensemble import ProbeMember
from pipelines.schema.sections.prompts import (
    PptSection,
    PromptsSection,
    PromptTaskConfig,
    TokenLevelTask,
    token_level_tasks,
)
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.encoders.config import check_training
from stages.common.prompts.config import check_annotates
from stages.common.training.config import TrainingConfig
from stages.prompt_pretraining.formats import check_options_fit
from stages.splits.config import DataConfig
from stages.token_level.splits.config import TokenLevelData


def check_rules(config: PipelineConfig) -> None:
    """Checks all rules about several sections. The first rule that is broken decides which error is shown.

    Raises:
        InputError: names the dotted key.
    """
    check_trainings(config)
    check_label_words(config)
    check_soft_blocks(config)
    check_members(config)
    check_inits(config)
    check_learning_curve(config)
    if not config.has_labels:
        check_zero_labels(config)
    if config.prompts is not None:
        check_prompt_tasks(config, config.prompts)
        check_pretraining_formats(config, config.prompts)
        check_token_level_tasks(config)
    if config.ppt is not None:
        check_pretraining_options(config.ppt, config.backbone)


def check_trainings(config: PipelineConfig) -> None:
    """A student has the loop that it needs; a loop that looks at a dev set has one; there is a pile to label."""
    for place, section in (("distill", config.distill), ("baseline", config.baseline)):
        try:
            if section is not None:
                check_training(config.student, section.training)
        except ValueError as error:
            problem, _, remedy = str(error).partition(". ")
            raise InputError(f"{problem}.", remedy, key=f"{place}.training") from None
    for place, (loop, sets) in _trainings(config).items():
        if loop is not None and loop.early_stopping and not (sets and all(data.has_dev for data in sets)):
            raise InputError(
                "early_stopping needs a development set, and there is none here.",
                "Give one (data.dev, or data.dev_shots), or take early_stopping out." if sets else "Take it out.",
                key=f"{place}.early_stopping",
            )
    if config.data.unlabeled is None and (config.data.unlabeled_size == 0 or config.data.pool is None):
        raise InputError(
            "there are no unlabelled texts, from which the student learns.",
            "Name a file (data.unlabeled), or a pool and data.unlabeled_size.",
            key="data",
        )


def check_label_words(config: PipelineConfig) -> None:
    if not config.task.verbalizer and config.verbalizer_search is None:
        raise InputError(
            "the task has no label words.",
            "Write a verbalizer, or have words searched for: verbalizer_search: {}.",
            key="task.verbalizer",
        )
    if config.verbalizer_search is None:
        return
    if config.task.verbalizer or config.task.options:
        what = "label words already" if config.task.verbalizer else "options, whose answers need words of their own"
        raise InputError(f"the task has {what}.", "Take verbalizer_search out.", key="verbalizer_search")
    if not config.has_labels:
        raise InputError("words are found from labelled examples.", "Add some, or a verbalizer.", key="data.shots")
    if config.prompts and any(item.task is None for item in config.prompts.tasks):
        raise InputError(
            "prompts for the recipe's own task need label words.", "Write a verbalizer.", key="task.verbalizer"
        )


def check_soft_blocks(config: PipelineConfig) -> None:
    """Patterns with soft blocks are for prompts, which must use them; sub-models have others."""
    prompted = {item.pattern for item in config.prompts.tasks if item.task is None} if config.prompts else set()
    prompted |= {name for section in config.pet_sections.values() for name in section.patterns or ()}
    for name in config.task.patterns:
        if name not in config.hard_patterns and name not in prompted:
            raise InputError(
                f"pattern {name!r} has a soft block, which only prompt tuning trains, and no prompt uses it.",
                f"Take {{soft:...}} out, or name it in prompts.tasks: - pattern: {name}.",
                key=f"task.patterns.{name}",
            )
    if not config.hard_patterns:
        raise InputError(
            "every pattern has a soft block, and sub-models need one without.", "Add one.", key="task.patterns"
        )
    for place, section in config.pet_sections.items():
        for name in section.patterns or ():
            takes = section.tune == "prompt" and not section.prompt.is_deep and config.has_labels
            if name in config.task.patterns and name not in config.hard_patterns and not takes:
                raise InputError(
                    f"pattern {name!r} has a soft block, which these sub-models do not train.",
                    "Take it out here; or tune: prompt, with labelled examples and no deep prompt.",
                    key=f"{place}.patterns",
                )


def check_inits(config: PipelineConfig) -> None:
    """What starts from a pretrained prompt has one."""
    methods = config.prompts.methods if config.prompts else {}
    starts = {f"prompts.methods.{name}": item.init for name, item in methods.items()}
    sections = {place: item for place, item in config.pet_sections.items() if item.tune == "prompt"}
    starts |= {f"{place}.prompt": item.prompt.init for place, item in sections.items()}
    for place, start in starts.items():
        if config.ppt is None and start == "ppt":
            raise InputError(
                "this starts from ppt, but there is no ppt section.", "Add one: ppt: {...}.", key=f"{place}.init"
            )
    for place, item in sections.items():
        for pattern in config.patterns_of(item) if item.prompt.init == "ppt" else ():
            try:
                config.pretrained_for(PromptTaskConfig(pattern=pattern))
            except InputError as error:
                raise error.at(key=f"{place}.prompt.init") from None
        if item.batched_training and config.verbalizer_search:
            raise InputError(
                "prompts are not trained together with words that are still searched for.",
                "Write a verbalizer, or take together out.",
                key=f"{place}.batched_training",
            )
        if place != "pet" and item.prompt.init == "ppt":
            raise InputError(
                "prompts are pretrained for the recipe's own backbone.",
                "Take another start.",
                key=f"{place}.prompt.init",
            )


def check_members(config: PipelineConfig) -> None:
    for name in config.members:
        if re.fullmatch(r"g[0-9]+", name):
            raise InputError(f"{name} names a generation of iPET.", "Choose another.", key=f"members.{name}")
    for place, section in config.pet_sections.items():
        unknown = [name for name in section.patterns or () if name not in config.task.patterns]
        if unknown:
            raise InputError(
                f"there is no pattern {unknown[0]!r}.",
                f"Take some of: {', '.join(config.task.patterns)}.",
                key=f"{place}.patterns",
            )
        seeds = section.seeds if config.has_labels else section.seeds[:1]
        if section.ipet and len(config.patterns_of(section)) * len(seeds) < 2:
            raise InputError(
                "iPET needs two sub-models, which label for each other.",
                "Add a pattern or a seed, or take ipet out.",
                key=f"{place}.ipet",
            )
    if config.priming and config.task.options:
        raise InputError("demonstrations are not for multiple choice.", "Take priming out.", key="priming")


def check_zero_labels(config: PipelineConfig) -> None:
    """Without labelled examples there is only what needs none: zero-shot members, and iPET from them."""
    prompted = config.prompts.tasks if config.prompts else ()
    wants = {
        "baseline": config.baseline is not None,
        "priming": config.priming is not None,
        "distill.gold_weight": config.distill.gold_weight > 0,
        "prompts": any(item.task is None for item in prompted),
    }
    wants |= {f"members.{name}": item.kind == "probe" for name, item in config.members.items()}
    wants |= {f"{place}.tune": item.tune != "none" and not item.ipet for place, item in config.pet_sections.items()}
    for place, needed in wants.items():
        if needed:
            raise InputError(
                "there are no labelled examples (data.shots is 0 and data.train is not given).",
                "Add some; or take this out. Without labels sub-models are zero-shot (pet.tune: none) or learn "
                "from each other (pet.ipet).",
                key=place,
            )


def check_prompt_tasks(config: PipelineConfig, prompts: PromptsSection) -> None:
    names = [config.prompt_task(item)[0].name for item in prompts.tasks]
    if len(set(names)) < len(names):
        raise InputError(f"two tasks have the same name: {names}.", "Give each its own.", key="prompts.tasks")
    for number, item in enumerate(prompts.tasks):
        known = config.prompt_task(item)[0].patterns
        if item.pattern not in known:
            raise InputError(
                f"there is no pattern {item.pattern!r}.",
                f"Take one of: {', '.join(known)}.",
                key=f"prompts.tasks.{number}.pattern",
            )


def check_pretraining_formats(config: PipelineConfig, prompts: PromptsSection) -> None:
    """Every downstream task finds the pretrained prompt that it starts from."""
    starts = any(item.init == "ppt" for item in prompts.methods.values())
    for number, item in enumerate(prompts.tasks):
        place = f"prompts.tasks.{number}.format"
        if item.format and config.ppt is None:
            raise InputError("there is no ppt section, which has formats.", "Take this out.", key=place)
        if config.ppt and (starts or item.format):
            try:
                config.pretrained_for(item)
            except InputError as error:
                raise error.at(key=place) from None


def _trainings(config: PipelineConfig) -> dict[str, tuple[TrainingConfig | None, list[DataConfig | TokenLevelData]]]:
    """Dotted place -> loop, and the data whose dev sets its stages look at; none where a stage never looks."""
    own: list[DataConfig | TokenLevelData] = [config.data]
    found = {f"{place}.training": (section.training, own) for place, section in config.pet_sections.items()}
    found |= {
        "distill.training": (config.distill.training, own),
        "ppt.training": (config.ppt.training if config.ppt else None, []),
    }
    found |= {"baseline.training": (config.baseline.training if config.baseline else None, own)}
    if config.prompts:
        sets: list[DataConfig | TokenLevelData] = [config.prompt_task(item)[1] for item in config.prompts.tasks]
        sets += [item.data for item in token_level_tasks(config.prompts)]
        found |= {"prompts.training": (config.prompts.training, sets)}
        found |= {
            f"prompts.methods.{name}.training": (item.training, sets) for name, item in config.prompts.methods.items()
        }
    for name, member in config.members.items():
        if isinstance(member, ProbeMember) and member.contrastive:
            found[f"members.{name}.contrastive.training"] = (member.contrastive.training, [])
    return found


def check_learning_curve(config: PipelineConfig) -> None:
    """Refuses a curve that has no labels, no baseline or no patterns to be made of.

    Raises:
        InputError: names the key.
    """
    section = config.learning_curve
    if section is None:
        return
    if not config.has_labels:
        raise InputError("there are no labelled examples.", "Add some, or take this out.", key="learning_curve")
    if "baseline" in section.methods and config.baseline is None:
        raise InputError(
            "there is no baseline section, which says how it is trained.",
            "Add one, or leave methods with others: [ensemble].",
            key="learning_curve.methods",
        )
    most = max(section.shots)
    if config.data.train is None and most > config.data.shots:
        raise InputError(
            f"{most} examples a class are more than the {config.data.shots} of data.shots.",
            "Raise data.shots, or take the larger numbers out.",
            key="learning_curve.shots",
        )
    for name in section.members:
        if name not in config.members:
            raise InputError(
                f"there is no member {name!r}.",
                f"Take some of: {', '.join(config.members)}." if config.members else "The recipe has no members.",
                key="learning_curve.members",
            )
    if section.ipet and config.pet.ipet is None:
        raise InputError("pet.ipet is not set.", "Set it, or take this out.", key="learning_curve.ipet")
    known = config.patterns_of(config.pet)
    for name in section.patterns or ():
        if name not in known:
            raise InputError(
                f"pet has no pattern {name!r}.", f"Take some of: {', '.join(known)}.", key="learning_curve.patterns"
            )


def check_token_level_tasks(config: PipelineConfig) -> None:
    """Refuses methods that such tasks cannot use, and names that are taken.

    Raises:
        InputError: names the key.
    """
    known = set(config.datasets)
    for item in token_level_tasks(config.prompts):
        assert config.prompts is not None
        if item.task.name in known:
            raise InputError(f"two tasks have the name {item.task.name}.", "Give each its own.", key=item.place)
        known.add(item.task.name)
        for name, method in config.prompts.methods.items():
            try:
                check_annotates(method)
            except InputError as error:
                raise InputError(error.problem, error.remedy, key=f"prompts.methods.{name}.{error.key}") from None
        if config.ppt and any(method.init == "ppt" for method in config.prompts.methods.values()):
            try:
                pretrained_for_token_level(config, item)
            except InputError as error:
                raise error.at(key=f"{item.place}.format") from None


def pretrained_for_token_level(config: PipelineConfig, item: TokenLevelTask) -> int:
    """Which of `ppt.formats` its prompts start from, where they start from ppt.

    Raises:
        InputError: none of them is the one.
    """
    assert config.ppt is not None
    kind = prompts.named_or_only(item.task.name, config.ppt.formats, item.config.format)
    return config.ppt.formats.index(kind)


def check_pretraining_options(ppt: PptSection, backbone: BackboneConfig) -> None:
    """Refuses more options than the backbone's length has room for.

    Raises:
        InputError: at `ppt.choice_options` or `ppt.unified_options`.
    """
    for kind in ("choice", "unified"):
        if kind in ppt.formats:
            try:
                check_options_fit(ppt.num_options(kind)[1], backbone.max_length)
            except InputError as error:
                raise error.at(key=f"ppt.{kind}_options") from None
