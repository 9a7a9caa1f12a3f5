"""Checks patterns, label words, prompts and lengths against each backbone and its tokenizer, without weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pipelines.preflight.chain_of_thought import check_chain_of_thought
from pipelines.preflight.submodels import check_auxiliary_losses, check_demonstration_lengths
from pipelines.schema.config import PipelineConfig
from pipelines.schema.locations import errors_located_in
from pipelines.schema.sections.prompts import PptSection, generation_tasks, regression_tasks, token_level_tasks
from stages.common.assets.cache import is_cached, resolve
from stages.common.errors import AssetError, InputError, VerbalizerError
from stages.common.models.adapter_files import check_adapter
from stages.common.models.backbones import folders
from stages.common.models.backbones.config import BackboneConfig, Tune
from stages.common.models.backbones.folders import backbone_folder
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.model_files import (
    architecture_of,
    check_encoder_folder,
    check_writes_texts,
    family_of,
    is_translated,
    model_folder,
)
from stages.common.models.nli_labels import nli_labels
from stages.common.models.remote_code import check_code, code_files
from stages.common.models.traits import Use
from stages.common.models.traits_cache import folder_max_positions, folder_traits
from stages.common.patterns.config import Family, Task
from stages.common.patterns.encoding import check_pattern
from stages.common.patterns.syntax import Pattern
from stages.common.patterns.verbalizers import Verbalizer
from stages.common.prompts.config import PromptConfig, check_fit
from stages.prompt_pretraining.classifier_files import classifier_folder
from stages.prompt_pretraining.formats import task_of


def check_models(config: PipelineConfig, *, only_cached: bool = False) -> None:
    """Checks patterns, label words and losses against every backbone.

    Args:
        config: The recipe.
        only_cached: Skips backbones that must be downloaded or translated first, as a plan does.

    Raises:
        InputError: a combination that no stage can compute.
    """
    for key, backbone in config.backbones.items():
        if only_cached and not is_ready(backbone):
            continue
        section_key = "pet" if key == "backbone" else key.removesuffix(".backbone")
        section = config.pet_sections.get(section_key)
        with errors_located_in(f"{key}.asset"):
            family = family_of(backbone_folder(backbone))
        if section is not None:
            check_auxiliary_losses(section, section_key, family, backbone)
        with errors_located_in(f"{key}.asset"):
            tokenizer = bare_tokenizer(backbone)
            check_use(backbone, "score")
        check_generator(config, key, family)
        if section is not None:
            with errors_located_in(section_key):
                check_tuned(backbone, section.tune)
            if section.self_training is not None:
                with errors_located_in(f"{section_key}.self_training"):
                    check_tuned(backbone, section.self_training.tune)
            names = config.patterns_of(section)
            check_task(config.task, names, family, tokenizer, "task", soft_blocks=section.tune == "prompt")
            if section.tune == "prompt":
                patterns = [config.task.pattern(name) for name in names]
                with errors_located_in(f"{section_key}.prompt"):
                    check_method(section.prompt, patterns, backbone)
        if key != "backbone":
            continue
        check_task(config.task, config.hard_patterns, family, tokenizer, "task")
        if config.verbalizer_search:
            check_search(config.task, family)
        check_chain_of_thought(config, family, tokenizer)
        if config.pattern_search and config.pattern_search.gradient:
            with errors_located_in("pattern_search.gradient"):
                check_use(backbone, "prompt")
        check_prompts(config, family, tokenizer)
        check_instruction_tasks(config, family, tokenizer)
        check_token_level_family(config, family)
        check_generation(config, family)
        check_regression(config, family, tokenizer)
        if config.ppt:
            check_formats(config.ppt, family, tokenizer)


def check_generator(config: PipelineConfig, key: str, family: Family) -> None:
    """Checks that the model that fills gaps for the pattern search is a seq2seq model. `key`: of a backbone."""
    generate = config.pattern_search.generate if config.pattern_search else None
    if generate is None or family == "seq2seq":
        return
    if key == ("pattern_search.generate.backbone" if generate.backbone else "backbone"):
        raise InputError(
            f"only a seq2seq model such as T5 fills gaps; {config.backbones[key].asset.partition('#')[0]} is {family}.",
            "Set generate.backbone to a seq2seq model, or remove generate.",
            key="pattern_search.generate",
        )


def check_prompts(config: PipelineConfig, family: Family, tokenizer: Any) -> None:
    """Checks the tasks of prompt tuning, and every method against every pattern.

    Raises:
        InputError: a pattern or a word does not fit the backbone, or a method does not fit a pattern.
    """
    if config.prompts is None:
        return
    for name, method in config.prompts.methods.items():
        patterns = [config.prompt_task(item)[0].pattern(item.pattern) for item in config.prompts.tasks]
        with errors_located_in(f"prompts.methods.{name}"):
            check_method(method, patterns, config.language_model)
    for number, item in enumerate(config.prompts.tasks):
        task, _ = config.prompt_task(item)
        key = "task" if item.task is None else f"prompts.tasks.{number}.task"
        check_task(task, (item.pattern,), family, tokenizer, key, soft_blocks=True)
        for name, method in config.prompts.methods.items():
            if method.head == "linear" and task.options:
                raise InputError(
                    "a linear head does not support multiple choice, which scores the words for right and wrong.",
                    "Remove head: linear, or this task.",
                    key=f"prompts.methods.{name}.head",
                )
            if method.head != "linear" and not task.verbalizer:
                raise InputError(
                    f"the task {task.name} has no label words.",
                    "Set a verbalizer, or head: linear for every method.",
                    key=f"{key}.verbalizer",
                )


def check_instruction_tasks(config: PipelineConfig, family: Family, tokenizer: Any) -> None:
    """Checks what instruction tuning trains, and patterns and label words of its tasks.

    Raises:
        InputError: with the key of the task or setting.
    """
    if config.instruction_tuning is None:
        return
    with errors_located_in("instruction_tuning"):
        check_tuned(config.language_model, config.instruction_tuning.tune)
    for key, item in config.instruction_tasks.items():
        check_task(item.task, item.task.patterns, family, tokenizer, f"{key}.task")


def check_generation(config: PipelineConfig, family: Family) -> None:
    """Checks that the backbone can write the outputs of generation tasks after the longest input.

    Raises:
        InputError: it is masked, lacks positions, or a method does not fit the task.
    """
    backbone, trust = config.language_model, config.language_model.trust_remote_code
    for item in generation_tasks(config.prompts):
        if family == "masked":
            raise InputError(
                f"{backbone.asset.partition('#')[0]} is masked, and generates no texts.",
                "Use a causal or seq2seq backbone, or remove this task.",
                key=item.key,
            )
        assert config.prompts is not None
        for name, method in config.prompts.methods.items():
            with errors_located_in(f"prompts.methods.{name}"):
                check_method(method, [item.task.input_pattern], backbone)
        num_positions = folder_max_positions(backbone_folder(backbone), trust_remote_code=trust)
        # the encoder of a seq2seq model reads the input, and its decoder writes the output
        num_others = config.num_prompt_vectors("backbone") + (backbone.max_length if family == "causal" else 0)
        if num_positions is not None and num_others + item.task.max_new_tokens > num_positions:
            before = "the input and the prompt" if family == "causal" else "the prompt"
            raise InputError(
                f"{item.task.max_new_tokens} new tokens after {num_others} of {before} are more than the "
                f"{num_positions} positions of the model.",
                "Lower max_new_tokens, or max_length of the backbone.",
                key=f"{item.key}.max_new_tokens",
            )


def check_regression(config: PipelineConfig, family: Family, tokenizer: Any) -> None:
    """Checks patterns and words of regression tasks, and every method against them.

    Raises:
        InputError: a pattern or a word does not fit the backbone, or a method does not fit a pattern.
    """
    for item in regression_tasks(config.prompts):
        ends = item.task.ends
        check_task(ends, ends.patterns, family, tokenizer, item.key, soft_blocks=True)
        for name, method in config.prompts.methods.items() if config.prompts else ():
            with errors_located_in(f"prompts.methods.{name}"):
                check_method(method, map(ends.pattern, ends.patterns), config.language_model)


def check_method(method: PromptConfig, patterns: Iterable[Pattern], backbone: BackboneConfig) -> None:
    """Checks a method of soft prompt tuning against patterns and backbone."""
    for pattern in patterns:
        check_fit(method, pattern)
    if method.prompt_length:
        check_use(backbone, "deep" if method.is_deep else "prompt")
    if method.layers is not None or method.layer_lengths is not None:
        with errors_located_in("layers" if method.layers is not None else "layer_lengths"):
            check_chosen_layers(backbone)
    if method.prefix_at is not None:
        with errors_located_in("prefix_at"):
            check_places(method.prefix_at, backbone)
    if method.lora is not None:
        check_use(backbone, "lora")


def check_chosen_layers(backbone: BackboneConfig) -> None:
    """Checks that a causal backbone takes prefixes of some layers, with a small copy.

    Raises:
        InputError: with the technical reason.
    """
    folder = backbone_folder(backbone)
    if family_of(folder) == "causal":
        from stages.common.models.backbones.prefix_check import check_layers  # noqa: PLC0415  (loads torch)

        check_layers(folder, trust_remote_code=backbone.trust_remote_code)


def check_places(places: Sequence[str], backbone: BackboneConfig) -> None:
    """Checks the places of a prefix with a small copy of the backbone.

    Raises:
        InputError: with the technical reason.
    """
    folder = backbone_folder(backbone)
    if (family := family_of(folder)) != "seq2seq":
        raise InputError(f"prefix_at is for seq2seq models, but the backbone is {family}.", "Remove prefix_at.")
    if set(places) - {"decoder"}:
        from stages.common.models.backbones.prefix_check import check_prefixes  # noqa: PLC0415  (loads torch)

        check_prefixes(folder, trust_remote_code=backbone.trust_remote_code)


def check_tuned(backbone: BackboneConfig, tune: Tune) -> None:
    """Checks that the architecture of a backbone supports what a section trains, with a small copy of it.

    Raises:
        InputError: with the technical reason.
    """
    if tune == "lora":
        with errors_located_in("tune"):
            check_use(backbone, "lora")
    elif tune not in ("full", "prompt", "none"):
        from stages.common.models.backbones.tuning_check import check_tune  # noqa: PLC0415  (loads torch)

        check_tune(tune, backbone_folder(backbone), trust_remote_code=backbone.trust_remote_code)


def check_use(backbone: BackboneConfig, use: Use) -> None:
    """Checks that the architecture of a backbone supports a use, with a small copy of it.

    Raises:
        InputError: with the technical reason.
    """
    folder = backbone_folder(backbone)
    folder_traits(folder, trust_remote_code=backbone.trust_remote_code).check(use, architecture_of(folder))


def check_formats(ppt: PptSection, family: Family, tokenizer: Any) -> None:
    """Checks the label words of every pretraining format, and the labels of a classifier that is cached.

    Raises:
        InputError: a word is not in the vocabulary, the letter of an option is not a single token, or the classifier
            has other labels.
    """
    for kind in ppt.formats:
        task = task_of(kind, ppt.num_options(kind)[1], ppt.single.verbalizer)
        key = "ppt.single.verbalizer" if kind == "single" else "ppt.formats"
        with errors_located_in(key):
            words = Verbalizer.of(task.words(family), tokenizer)
        long = [label for label, word in zip(words.labels, words.words, strict=True) if len(word[0]) > 1]
        if long and kind in ("choice", "unified"):
            raise VerbalizerError(
                f"the letter {long[0]} of an option is not a single token of the backbone's vocabulary.",
                f"Set fewer options (ppt.{kind}_options), or remove {kind}.",
                key=key,
            )
    if "single" in ppt.formats and ppt.single.classifier and is_cached(ppt.single.classifier):
        with errors_located_in("ppt"):
            classifier_folder(ppt.single)


def is_ready(model: BackboneConfig | EncoderConfig) -> bool:
    """Returns True if a model can be read without a download, and without translating or merging it."""
    if isinstance(model, BackboneConfig):
        return folders.is_ready(model)
    return is_cached(model.asset) and is_translated(resolve(model.asset))


def local_folder(model: BackboneConfig | EncoderConfig) -> Path:
    """Returns the folder of a model, which is translated or merged first if necessary."""
    return backbone_folder(model) if isinstance(model, BackboneConfig) else model_folder(model.asset)


def check_folders(config: PipelineConfig, *, only_cached: bool = False) -> None:
    """Checks what can be read from the folders of models and adapters alone: adapters, pickled weights, and code.

    Args:
        config: The recipe.
        only_cached: Skips what must be downloaded or translated first.

    Raises:
        InputError: with the key of the folder.
    """
    for key, backbone in config.backbones.items():
        if backbone.adapter and (not only_cached or is_cached(backbone.adapter)):
            with errors_located_in(f"{key}.adapter"):
                check_adapter(resolve(backbone.adapter))
        if only_cached and not is_ready(backbone.model_copy(update={"adapter": None})):
            continue
        with errors_located_in(f"{key}.asset"):
            folder = model_folder(backbone.asset)
            family_of(folder)
            check_code(folder, trust_remote_code=backbone.trust_remote_code)
    for key, encoder in config.encoders.items():
        if only_cached and not is_ready(encoder):
            continue
        with errors_located_in(f"{key}.asset"):
            check_encoder_folder(model_folder(encoder.asset))
    check_paraphrasers(config, only_cached=only_cached)
    for name, member in config.nli_members.items():
        if not only_cached or is_cached(member.asset):
            with errors_located_in(f"members.{name}.asset"):
                check_encoder_folder(resolve(member.asset))
                nli_labels(resolve(member.asset))


def check_paraphrasers(config: PipelineConfig, *, only_cached: bool) -> None:
    """Checks that the models that paraphrase patterns write one text for another.

    Raises:
        InputError: a model has no encoder and decoder.
    """
    section = config.pattern_search.paraphrase if config.pattern_search else None
    assets = {"model": section.model, "back_translation": section.back_translation} if section else {}
    for name, asset in assets.items():
        if asset is None or (only_cached and not is_cached(asset)):
            continue
        with errors_located_in(f"pattern_search.paraphrase.{name}"):
            check_encoder_folder(resolve(asset))
            check_writes_texts(resolve(asset))


def code_warnings(backbones: Mapping[str, BackboneConfig]) -> Iterator[str]:
    """Yields a sentence about each backbone whose folder has code that runs. `backbones`: dotted key -> model."""
    for key, backbone in backbones.items():
        if not backbone.trust_remote_code:
            continue
        folder = model_folder(backbone.asset) if is_ready(backbone.model_copy(update={"adapter": None})) else None
        names = ", ".join(path.relative_to(folder).as_posix() for path in code_files(folder)) if folder else ""
        files = f" ({names})" if names else ""
        yield (
            f"{key}.trust_remote_code: Python code of {backbone.asset.partition('#')[0]}{files} runs on this machine "
            "and on every worker. Read it before a run."
        )


def check_lengths(config: PipelineConfig, *, only_cached: bool = False) -> None:
    """Checks that a text of the maximum length, with the prompt before it, has at most as many tokens as a model has
    positions.

    Args:
        config: The recipe.
        only_cached: Skips models that must be downloaded or translated first.

    Raises:
        InputError: with the key of `max_length`.
    """
    classifiers = {
        f"members.{name}": EncoderConfig(asset=item.asset, max_length=item.max_length)
        for name, item in config.nli_members.items()
    }
    for key, model in (config.backbones | config.encoders | classifiers).items():
        if only_cached and not is_ready(model):
            continue
        num_virtual_tokens = config.num_prompt_vectors(key)
        trust = isinstance(model, BackboneConfig) and model.trust_remote_code
        num_positions = folder_max_positions(local_folder(model), trust_remote_code=trust)
        if num_positions is not None and model.max_length + num_virtual_tokens > num_positions:
            prompt = f" after a prompt of {num_virtual_tokens} vectors" if num_virtual_tokens else ""
            raise InputError(
                f"{model.max_length} tokens{prompt} are more than the {num_positions} positions of the model.",
                f"Lower max_length to {max(num_positions - num_virtual_tokens, 0)} or less.",
                key=f"{key}.max_length",
            )
        if num_positions is not None and key in config.backbones:
            check_demonstration_lengths(config, key, num_positions)


def check_task(
    task: Task, patterns: Iterable[str], family: Family, tokenizer: Any, key: str, *, soft_blocks: bool = False
) -> None:
    """Checks patterns and label words of a task against a backbone's family and vocabulary. `key`: of the task."""
    names = tuple(patterns)
    for name in names:
        with errors_located_in(f"{key}.patterns.{name}"):
            check_pattern(task.pattern(name), family, soft_blocks=soft_blocks)
    if task.decoding != "default" and family != "masked":
        raise InputError(
            f"decoding: {task.decoding} is for masked models, but a {family} model works from left to right.",
            "Remove decoding, or use a masked backbone.",
            key=f"{key}.decoding",
        )
    if task.verbalizer:
        check_words(task, family, tokenizer, names, key)


def check_scoring(task: Task, patterns: Iterable[str], backbone: BackboneConfig) -> None:
    """Checks the task and backbone of `clozeline score`."""
    if not task.verbalizer:
        raise InputError("the task has no label words.", "Set a verbalizer.", key="task.verbalizer")
    with errors_located_in("backbone.asset"):
        family, tokenizer = family_of(backbone_folder(backbone)), bare_tokenizer(backbone)
        check_use(backbone, "score")
    check_task(task, patterns, family, tokenizer, "task")


def check_search(task: Task, family: Family) -> None:
    """Checks that the search can read one token per pattern."""
    for name in task.patterns:
        if family == "causal" and not task.pattern(name).ends_in_mask:
            raise InputError(
                f"no words can be found for pattern {name!r}: a causal model predicts them only at the end.",
                "Put {mask} at the end of the pattern, or set a verbalizer.",
                key=f"task.patterns.{name}",
            )


def check_words(task: Task, family: Any, tokenizer: Any, patterns: Iterable[str], key: str) -> None:
    """Checks that every label word is in the vocabulary. `key`: of the task."""
    for pattern in patterns:
        try:
            Verbalizer.of(task.words(pattern), tokenizer)
        except InputError as error:
            label = next((item for item in task.answers if f"of {item!r}" in error.problem), None)
            raise error.at(key=f"{key}.verbalizer.{label}" if label else f"{key}.verbalizer") from error


def bare_tokenizer(backbone: BackboneConfig) -> Any:
    """Returns the tokenizer, if possible without transformers, whose import takes longer than all checks.

    Raises:
        AssetError: the folder of the backbone contains no tokenizer, or a damaged one.
    """
    folder = backbone_folder(backbone)
    # Without any of these files, transformers builds an empty tokenizer without a warning.
    if not any(item for form in ("tokenizer*", "vocab*", "*.model") for item in folder.glob(form)):
        raise AssetError(f"{folder} contains no tokenizer.", "Add tokenizer.json to the folder.")
    try:
        if (folder / "tokenizer.json").exists():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.encode_special_tokens = True  # a label word is plain text
            tokenizer.no_padding()  # Some files enable padding, and a word would have the tokens of a full text.
            return tokenizer
        from transformers import AutoTokenizer  # noqa: PLC0415  (takes seconds, for few models only)

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=backbone.trust_remote_code)
    except Exception as error:  # The tokenizers library raises no narrower type.
        raise AssetError(f"the tokenizer in {folder} cannot be read ({error}).", "Download it again.") from error


def check_token_level_family(config: PipelineConfig, family: Family) -> None:
    """Checks that prompts of token-level tasks influence the hidden states of tokens, which deep prompts of seq2seq
    models do not.

    Raises:
        InputError: with the key of the method.
    """
    if family != "seq2seq" or not token_level_tasks(config.prompts):
        return
    assert config.prompts is not None
    for name, method in config.prompts.methods.items():
        if method.is_deep and method.places != ("encoder",):
            raise InputError(
                f"token-level tasks use the encoder of a seq2seq model, but {method.method} changes its decoder.",
                "Set prefix_at: [encoder], or method: prompt_tuning or p_tuning.",
                key=f"prompts.methods.{name}.method",
            )
