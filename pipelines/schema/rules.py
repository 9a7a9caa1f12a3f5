"""Rules about several sections of a recipe, one function per rule. Each raises `InputError` with the dotted key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from pipelines.schema.chain_of_thought_rules import check_chain_of_thought
from pipelines.schema.config import PipelineConfig
from pipelines.schema.demonstration_rules import check_demonstrations
from pipelines.schema.downstream_rules import check_downstream_tasks
from pipelines.schema.instruction_rules import check_instructions
from pipelines.schema.learning_rate_rules import check_learning_rates
from pipelines.schema.locations import errors_located_in
from pipelines.schema.loss_rules import check_losses
from pipelines.schema.member_rules import check_members
from pipelines.schema.problem_rules import check_problem_type
from pipelines.schema.search_rules import check_pattern_search
from pipelines.schema.sections.ensemble import FinetunedMember, ProbeMember, StudentStage
from pipelines.schema.sections.prompts import PromptTaskConfig, downstream_tasks
from pipelines.schema.task_rules import check_tasks
from pipelines.schema.transfer_rules import check_transfer
from stages.common.data.config import DownstreamData
from stages.common.errors import InputError
from stages.common.training.config import TrainingConfig
from stages.common.training.student_config import StudentSettings
from stages.prompt_pretraining.formats import check_options_fit
from stages.splits.config import DataConfig

AnyData = DataConfig | DownstreamData
"""The sets of a task."""


def check_rules(config: PipelineConfig) -> None:
    """Checks all rules about several sections. The first rule that is broken raises the error.

    Raises:
        InputError: with the dotted key.
    """
    for check in RULES:
        check(config)


def check_student_training(config: PipelineConfig) -> None:
    """Each student has training settings exactly if its `tune` needs them."""
    sections: list[tuple[StudentStage, StudentSettings | None]] = [
        ("distill", config.distill if config.has_unlabeled else None),
        ("baseline", config.baseline),
    ]
    for stage, section in sections:
        if section is None:
            continue
        for name, student in config.encoder_students.items():
            if student.tune == "full" and student.training_in(stage, section) is None:
                raise InputError(
                    f"students.{name}.tune: full needs training settings.",
                    f"Add training: {{learning_rate: 0.00005, epochs: 3}}, or set students.{name}.tune: head.",
                    key=f"{stage}.training",
                )
        if section.training is not None and all(student.tune == "head" for student in config.encoder_students.values()):
            raise InputError(
                "every student is fitted, without training steps (tune: head, or kind: tfidf).",
                "Remove training, or set tune: full for a student.",
                key=f"{stage}.training",
            )
    for name, student in config.encoder_students.items():
        if student.baseline_training is not None and config.baseline is None:
            raise InputError(
                "the recipe has no section baseline.",
                "Add baseline: {}, or remove baseline_training.",
                key=f"students.{name}.baseline_training",
            )


def check_teachers(config: PipelineConfig) -> None:
    """Students that teach others exist, and none is its own teacher through others."""
    for name, student in config.students.items():
        key, path = f"students.{name}.teacher", [name]
        while (teacher := config.students[path[-1]].teacher) is not None:
            if teacher not in config.students:
                raise _unknown("student", teacher, config.students, f"students.{path[-1]}.teacher")
            if teacher in path:
                raise InputError(f"{' <- '.join([*path, teacher])} is a circle.", "Remove one of these.", key=key)
            path.append(teacher)
        if student.teacher is not None and config.unlabeled_shards is not None:
            raise InputError(
                "students of shards learn from the ensemble only.", "Remove teacher, or unlabeled_shards.", key=key
            )


def check_early_stopping(config: PipelineConfig) -> None:
    """Early stopping has a dev set."""
    for key, training, sets in _trainings(config):
        if training is None or training.early_stopping is None:
            continue
        if not sets:
            raise InputError(
                "early stopping is not possible here, because this training uses no dev set.",
                "Remove early_stopping.",
                key=f"{key}.early_stopping",
            )
        if not all(data.has_dev for data in sets):
            raise InputError(
                "early stopping requires a dev set, but neither data.dev nor data.dev_shots is set.",
                "Set one of them, or remove early_stopping.",
                key=f"{key}.early_stopping",
            )


def _trainings(
    config: PipelineConfig,
) -> list[tuple[str, TrainingConfig | None, Sequence[AnyData]]]:
    """Dotted key, training settings, and the data with the dev sets; no data if the stage does not use a dev set."""
    prompts, own = config.prompts, (config.data,)
    trainings: list[tuple[str, TrainingConfig | None, Sequence[AnyData]]] = [
        *((key, training, own) for key, training in config.pet_trainings.items()),
        ("distill.training", config.distill.training, own),
        ("ppt.training", config.ppt.training if config.ppt else None, ()),
        ("baseline.training", config.baseline.training if config.baseline else None, own),
        *((f"students.{name}.training", item.training, own) for name, item in config.encoder_students.items()),
        *(
            (f"students.{name}.baseline_training", item.baseline_training, own)
            for name, item in config.encoder_students.items()
        ),
    ]
    if prompts:
        sets: list[AnyData] = [
            *(config.prompt_task(item)[1] for item in prompts.tasks),
            *(item.section.data for item in downstream_tasks(prompts)),
        ]
        trainings.append(("prompts.training", prompts.training, sets))
        trainings += [
            (f"prompts.methods.{name}.training", item.training, sets) for name, item in prompts.methods.items()
        ]
    trainings += [
        (f"members.{name}.contrastive.training", member.contrastive.training, ())
        for name, member in config.members.items()
        if isinstance(member, ProbeMember) and member.contrastive
    ]
    trainings += [
        (f"members.{name}.training", member.training, own)
        for name, member in config.members.items()
        if isinstance(member, FinetunedMember)
    ]
    return trainings


def check_without_unlabeled_data(config: PipelineConfig) -> None:
    """Without unlabeled data, nothing needs it, and a baseline or a member becomes the classifier."""
    if config.has_unlabeled:
        return
    remedy = "Set data.unlabeled, or data.pool and data.unlabeled_size"
    if not config.has_labels:
        raise InputError("there is neither labeled nor unlabeled data.", f"{remedy}.", key="data")
    curve = config.learning_curve
    needs_unlabeled = {
        "unlabeled_shards": config.unlabeled_shards is not None,
        "learning_curve.methods": curve is not None and set(curve.methods) != {"baseline"},
        **{f"{key}.ipet": item.ipet is not None for key, item in config.pet_sections.items()},
        **{f"{key}.self_training": item.self_training is not None for key, item in config.pet_sections.items()},
        **{f"{key}.mlm": item.mlm is not None for key, item in config.pet_sections.items()},
    }
    for key, is_set in needs_unlabeled.items():
        if is_set:
            raise InputError("this needs unlabeled data.", f"{remedy}; or remove this.", key=key)
    if config.baseline is None and all(item.kind == "pet" for item in config.members.values()):
        raise InputError(
            "there is no unlabeled data, from which students learn, and neither a baseline nor a member that is a "
            "classifier.",
            f"{remedy}; or add a section baseline.",
            key="data",
        )


def check_has_language_model(config: PipelineConfig) -> None:
    """Sections that use the backbone have one."""
    keys = (
        "pet", "ppt", "prompts", "priming", "chain_of_thought", "instruction_tuning", "knowledge_probing",
        "verbalizer_search", "pattern_search",
    )  # fmt: skip
    for key in keys:
        if getattr(config, key) is not None and config.backbone is None:
            raise InputError(
                f"{key} uses a language model, but the recipe has no backbone.",
                f"Set one: backbone: {{asset: MODEL}}, or remove {key}.",
                key="backbone",
            )


def check_has_members(config: PipelineConfig) -> None:
    """The ensemble has a member."""
    if config.has_unlabeled and config.pet is None and not config.members:
        raise InputError(
            "nothing labels the unlabeled data: there are no sub-models and no other members.",
            "Add pet: {...}, or a member: members: {words: {kind: tfidf}}.",
            key="members",
        )


def check_has_label_words(config: PipelineConfig) -> None:
    """A task with a language model has label words, or a search finds them."""
    if config.backbones and not config.task.verbalizer and config.verbalizer_search is None:
        raise InputError(
            "the task has no label words.",
            "Set task.verbalizer, or search for words: verbalizer_search: {}.",
            key="task.verbalizer",
        )


def check_verbalizer_search(config: PipelineConfig) -> None:
    """A search for label words has a reason and labeled data, and no step before it needs the words."""
    if config.verbalizer_search is None:
        return
    if config.task.verbalizer:
        raise InputError("the task already has label words.", "Remove verbalizer_search.", key="verbalizer_search")
    if config.task.options:
        raise InputError(
            "multiple choice needs label words for right and wrong, which no search finds.",
            "Set task.verbalizer, and remove verbalizer_search.",
            key="verbalizer_search",
        )
    if not config.has_labels:
        raise InputError(
            "the search for label words needs labeled data.", "Set data.shots, or task.verbalizer.", key="data.shots"
        )
    if config.prompts and any(item.task is None for item in config.prompts.tasks):
        raise InputError(
            "prompts for the task of the recipe need label words.", "Set task.verbalizer.", key="task.verbalizer"
        )


def check_soft_blocks_are_used(config: PipelineConfig) -> None:
    """Each pattern with a soft block is used by a prompt or a sub-model that names it."""
    used = {item.pattern for item in config.prompts.tasks if item.task is None} if config.prompts else set()
    used |= {name for section in config.pet_sections.values() for name in section.patterns or ()}
    for name in config.task.patterns:
        if name not in config.hard_patterns and name not in used:
            raise InputError(
                f"pattern {name!r} has a soft block, which only prompt tuning trains, but no prompt uses it.",
                f"Remove {{soft:...}}, or add the pattern to prompts.tasks: - pattern: {name}.",
                key=f"task.patterns.{name}",
            )


def check_has_hard_pattern(config: PipelineConfig) -> None:
    """At least one pattern has no soft block."""
    if config.backbones and not config.hard_patterns:
        raise InputError(
            "every pattern has a soft block, but sub-models need one without.", "Add one.", key="task.patterns"
        )


def check_submodels_train_soft_blocks(config: PipelineConfig) -> None:
    """Sub-models whose patterns have soft blocks train prompts in them."""
    for key, section in config.pet_sections.items():
        trains_soft_blocks = section.tune == "prompt" and not section.prompt.is_deep and config.has_labels
        for name in section.patterns or ():
            if name in config.task.patterns and name not in config.hard_patterns and not trains_soft_blocks:
                raise InputError(
                    f"pattern {name!r} has a soft block, which these sub-models do not train.",
                    "Remove the pattern here, or set tune: prompt, with labeled data and without a deep prompt.",
                    key=f"{key}.patterns",
                )


def check_patterns_of_submodels(config: PipelineConfig) -> None:
    """The patterns of sub-models exist."""
    for key, section in config.pet_sections.items():
        for name in section.patterns or ():
            if name not in config.task.patterns:
                raise _unknown("pattern", name, config.task.patterns, f"{key}.patterns")


def check_priming(config: PipelineConfig) -> None:
    """Demonstrations are not for multiple choice."""
    if config.priming and config.task.options:
        raise InputError("priming does not support multiple choice.", "Remove priming.", key="priming")


def check_ppt_for_init(config: PipelineConfig) -> None:
    """Prompts with `init: ppt` have a section ppt."""
    if config.ppt is not None:
        return
    methods = config.prompts.methods if config.prompts else {}
    inits = {f"prompts.methods.{name}": item.init for name, item in methods.items()}
    inits |= {f"{key}.prompt": item.prompt.init for key, item in config.pet_sections.items() if item.tune == "prompt"}
    for key, init in inits.items():
        if init == "ppt":
            raise InputError(
                "init: ppt uses a pretrained prompt, but the recipe has no section ppt.",
                "Add ppt: {...}, or set another init.",
                key=f"{key}.init",
            )


def check_prompts_of_submodels(config: PipelineConfig) -> None:
    """Sub-models with `tune: prompt` have the pretrained prompt and the label words that they need."""
    for key, item in config.pet_sections.items():
        if item.tune != "prompt":
            continue
        if item.prompt.init == "ppt":
            with errors_located_in(f"{key}.prompt.init"):
                for pattern in config.patterns_of(item):
                    config.pretrained_for(PromptTaskConfig(pattern=pattern))
        if item.batched_training and config.verbalizer_search:
            raise InputError(
                "batched_training needs label words, but verbalizer_search finds them later.",
                "Set task.verbalizer, or remove batched_training.",
                key=f"{key}.batched_training",
            )
        if key != "pet" and item.prompt.init == "ppt":
            raise InputError(
                "prompts are pretrained for the backbone of the recipe only.",
                "Use another init.",
                key=f"{key}.prompt.init",
            )


def check_learning_curve(config: PipelineConfig) -> None:
    """The learning curve has labeled data, and the sections and members that it names."""
    section = config.learning_curve
    if section is None:
        return
    if not config.has_labels:
        raise InputError("there is no labeled data.", "Add some, or remove learning_curve.", key="learning_curve")
    if "baseline" in section.methods and config.baseline is None:
        raise InputError(
            "the recipe has no section baseline.", "Add it, or set methods: [ensemble].", key="learning_curve.methods"
        )
    largest = max(section.shots)
    if config.data.train is None and largest > config.data.shots:
        raise InputError(
            f"{largest} examples per class are more than the {config.data.shots} of data.shots.",
            "Raise data.shots, or remove the larger numbers.",
            key="learning_curve.shots",
        )
    for name in section.members:
        if name not in config.members:
            raise _unknown("member", name, config.members, "learning_curve.members")
    if config.pet is None and not section.members and set(section.methods) != {"baseline"}:
        raise InputError(
            "no member is part of the ensemble of the learning curve.",
            f"Set members: [{next(iter(config.members))}], or methods: [baseline].",
            key="learning_curve.members",
        )
    if section.ipet and (config.pet is None or not config.pet.num_generations):
        raise InputError("pet.ipet is not set.", "Set it, or set ipet: false.", key="learning_curve.ipet")
    patterns = config.patterns_of(config.pet) if config.pet else ()
    for name in section.patterns or ():
        if name not in patterns:
            raise _unknown("pattern", name, patterns, "learning_curve.patterns")


def check_without_labels(config: PipelineConfig) -> None:
    """Without labeled data, nothing needs labels: sub-models are zero-shot, or label data for each other (iPET)."""
    if config.has_labels:
        return
    prompted = config.prompts.tasks if config.prompts else ()
    needs_labels = {
        "baseline": config.baseline is not None,
        "priming": config.priming is not None,
        "distill.gold_weight": config.distill.gold_weight > 0,
        "prompts": any(item.task is None for item in prompted),
        **{f"members.{name}": item.kind not in ("pet", "nli") for name, item in config.members.items()},
        **{f"{key}.tune": item.tune != "none" and not item.ipet for key, item in config.pet_sections.items()},
    }
    for key, is_set in needs_labels.items():
        if is_set:
            raise InputError(
                "this needs labeled data, but data.shots is 0 and data.train is not set.",
                "Add labeled data, or remove this. Without labels, use zero-shot sub-models (pet.tune: none) or iPET "
                "(pet.ipet).",
                key=key,
            )


def check_prompt_tasks(config: PipelineConfig) -> None:
    """Downstream tasks have different names and existing patterns."""
    items = config.prompts.tasks if config.prompts else ()
    names = [config.prompt_task(item)[0].name for item in items]
    if len(set(names)) < len(names):
        raise InputError(f"two tasks have the same name: {names}.", "Rename one of them.", key="prompts.tasks")
    for number, item in enumerate(items):
        patterns = config.prompt_task(item)[0].patterns
        if item.pattern not in patterns:
            raise _unknown("pattern", item.pattern, patterns, f"prompts.tasks.{number}.pattern")


def check_pretrained_prompts(config: PipelineConfig) -> None:
    """Every downstream task finds the pretrained prompt that initializes its prompts."""
    if config.prompts is None:
        return
    uses_ppt = any(item.uses_ppt for item in config.prompts.methods.values())
    for number, item in enumerate(config.prompts.tasks):
        key = f"prompts.tasks.{number}.format"
        if item.format and config.ppt is None:
            raise InputError("the recipe has no section ppt.", "Remove format.", key=key)
        if config.ppt and (uses_ppt or item.format):
            with errors_located_in(key):
                config.pretrained_for(item)


def check_pretraining_options(config: PipelineConfig) -> None:
    """The options of pretraining examples fit into the length of the backbone."""
    ppt = config.ppt
    for kind in ("choice", "unified"):
        if ppt is not None and kind in ppt.formats:
            with errors_located_in(f"ppt.{kind}_options"):
                check_options_fit(ppt.num_options(kind)[1], config.language_model.max_length)


def _unknown(what: str, name: str, known: Collection[str], key: str) -> InputError:
    remedy = f"Use one of: {', '.join(known)}." if known else f"The recipe has no {what}s."
    return InputError(f"there is no {what} {name!r}.", remedy, key=key)


RULES: tuple[Callable[[PipelineConfig], None], ...] = (
    check_tasks,
    check_problem_type,
    check_student_training,
    check_teachers,
    check_early_stopping,
    check_learning_rates,
    check_without_unlabeled_data,
    check_has_language_model,
    check_has_members,
    check_has_label_words,
    check_verbalizer_search,
    check_pattern_search,
    check_soft_blocks_are_used,
    check_has_hard_pattern,
    check_submodels_train_soft_blocks,
    check_patterns_of_submodels,
    check_members,
    check_priming,
    check_chain_of_thought,
    check_instructions,
    check_ppt_for_init,
    check_transfer,
    check_prompts_of_submodels,
    check_learning_curve,
    check_without_labels,
    check_prompt_tasks,
    check_losses,
    check_demonstrations,
    check_pretrained_prompts,
    check_downstream_tasks,
    check_pretraining_options,
)
"""All rules, in the order in which they are checked."""
