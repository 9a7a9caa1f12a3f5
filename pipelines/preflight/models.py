"""Checks patterns, label words, prompts and lengths against each backbone and its tokenizer, without weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from pipelines.schema.config import PipelineConfig
from pipelines.schema.locations import with_key
from pipelines.schema.sections.prompts import PptSection, token_level_tasks
from stages.common.assets.cache import is_cached, resolve
from stages.common.errors import AssetError, InputError, VerbalizerError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.model_files import check_deep, family_of, max_positions, model_folder, translated
from stages.common.patterns.config import Family, Task
from stages.common.patterns.encoding import check_pattern
from stages.common.patterns.syntax import Pattern
from stages.common.patterns.verbalizers import Verbalizer
from stages.common.prompts.config import PromptConfig, check_fit
from stages.prompt_pretraining.config import classifier_folder
from stages.prompt_pretraining.formats import task_of


def check_models(config: PipelineConfig, *, only_cached: bool = False) -> None:
    """Checks patterns, label words and losses against every backbone.

    Args:
        config: The recipe.
        only_cached: Pass over backbones that would have to be fetched or translated first, as a plan does.

    Raises:
        InputError: a combination that no stage can compute.
    """
    for place, backbone in config.backbones.items():
        if only_cached and not _is_ready(backbone.asset):
            continue
        where = "pet" if place == "backbone" else place.removesuffix(".backbone")
        section = config.pet_sections[where]
        family = with_key(f"{place}.asset", family_of, model_folder(backbone.asset))
        if section.mlm is not None and family != "masked":
            raise InputError(
                f"the auxiliary loss (mlm) is for masked models; {backbone.asset.partition('#')[0]} is {family}.",
                "Take mlm out, or name a masked backbone.",
                key=f"{where}.mlm",
            )
        tokenizer = with_key(f"{place}.asset", bare_tokenizer, backbone)
        own = config.patterns_of(section)
        check_task(config.task, own, family, tokenizer, "task", soft_blocks=section.tune == "prompt")
        if section.tune == "prompt":
            patterns = [config.task.pattern(name) for name in own]
            check_method(section.prompt, patterns, family, backbone, f"{where}.prompt")
        if place != "backbone":
            continue
        check_task(config.task, config.hard_patterns, family, tokenizer, "task")
        if config.verbalizer_search:
            check_search(config.task, family)
        check_prompts(config, family, tokenizer)
        check_token_level_family(config, family)
        if config.ppt:
            check_formats(config.ppt, family, tokenizer)


def check_prompts(config: PipelineConfig, family: Family, tokenizer: Any) -> None:
    """Checks the tasks of prompt tuning, and every method against every pattern.

    Raises:
        InputError: a pattern or a word does not fit the backbone, or a method does not fit a pattern.
    """
    if config.prompts is None:
        return
    for name, method in config.prompts.methods.items():
        patterns = [config.prompt_task(item)[0].pattern(item.pattern) for item in config.prompts.tasks]
        check_method(method, patterns, family, config.backbone, f"prompts.methods.{name}")
    for number, item in enumerate(config.prompts.tasks):
        task, _ = config.prompt_task(item)
        place = "task" if item.task is None else f"prompts.tasks.{number}.task"
        check_task(task, (item.pattern,), family, tokenizer, place, soft_blocks=True)
        for name, method in config.prompts.methods.items():
            if method.head == "linear" and task.options:
                raise InputError(
                    "multiple choice asks of each option whether it is right, which takes words.",
                    "Take head: linear out, or this task.",
                    key=f"prompts.methods.{name}.head",
                )
            if method.head != "linear" and not task.verbalizer:
                raise InputError(
                    f"the task {task.name} has no label words.",
                    "Write a verbalizer, or take head: linear for every method.",
                    key=f"{place}.verbalizer",
                )


def check_method(
    method: PromptConfig, patterns: Iterable[Pattern], family: Family, backbone: BackboneConfig, place: str
) -> None:
    """Checks a method of soft prompting against patterns and backbone."""
    for pattern in patterns:
        with_key(place, partial(check_fit, method), pattern)
    if method.is_deep:
        kind = json.loads((model_folder(backbone.asset) / "config.json").read_text())["model_type"]
        with_key(place, partial(check_deep, family), kind)


def check_formats(ppt: PptSection, family: Family, tokenizer: Any) -> None:
    """Checks the words of every format of pretraining; a classifier, if it is there, for its labels.

    Raises:
        InputError: a word is not in the vocabulary, a letter that stands for an option is no single token, or the
            classifier has other labels.
    """
    for kind in ppt.formats:
        task = task_of(kind, ppt.num_options(kind)[1], ppt.single.verbalizer)
        place = "ppt.single.words" if kind == "single" else "ppt.formats"
        words = with_key(place, lambda found: Verbalizer.of(found, tokenizer, family), task.words(family))
        long = [label for label, word in zip(words.labels, words.words, strict=True) if len(word[0]) > 1]
        if long and kind in ("choice", "unified"):
            raise VerbalizerError(
                f"the letter {long[0]}, which stands for an option, is no single token of the backbone's vocabulary.",
                f"Take fewer options (ppt.{kind}_options), or take {kind} out.",
                key=place,
            )
    if "single" in ppt.formats and ppt.single.classifier and is_cached(ppt.single.classifier):
        try:
            classifier_folder(ppt.single)
        except InputError as error:
            raise type(error)(error.problem, error.remedy, key=f"ppt.{error.key}") from error


def _is_ready(ref: str) -> bool:
    """Whether a backbone's folder can be read without fetching or translating anything."""
    if not is_cached(ref):
        return False
    path = resolve(ref)
    return path.suffix != ".gguf" or (translated(path) / "config.json").exists()


def check_lengths(config: PipelineConfig) -> None:
    """Refuses texts that, with the prompt before them, are longer than a model has positions.

    Raises:
        InputError: at `backbone.max_length` or `student.max_length`.
    """
    for place, model in (config.backbones | config.encoders).items():
        extra = config.num_prompt_vectors(place)
        room = max_positions(model_folder(model.asset))
        if room is not None and model.max_length + extra > room:
            behind = f" behind a prompt of {extra} vectors" if extra else ""
            raise InputError(
                f"{model.max_length} tokens{behind} are more than the {room} positions of the model.",
                f"Lower max_length to {max(room - extra, 0)} or less.",
                key=f"{place}.max_length",
            )


def check_task(
    task: Task, patterns: Iterable[str], family: Family, tokenizer: Any, place: str, *, soft_blocks: bool = False
) -> None:
    """Checks patterns and label words of a task against a backbone's family and vocabulary."""
    names = tuple(patterns)
    for name in names:
        try:
            check_pattern(task.pattern(name), family, soft_blocks=soft_blocks)
        except InputError as error:
            raise error.at(key=f"{place}.patterns.{name}") from error
    if task.decoding != "default" and family != "masked":
        raise InputError(
            f"decoding: {task.decoding} is an order of masks, and a {family} model reads from left to right.",
            "Take decoding out, or name a masked backbone.",
            key=f"{place}.decoding",
        )
    if task.verbalizer:
        check_words(task, family, tokenizer, names, place)


def check_scoring(task: Task, patterns: Iterable[str], backbone: BackboneConfig) -> None:
    """Checks what `clozeline score` is asked for."""
    if not task.verbalizer:
        raise InputError("the task has no label words.", "Write a verbalizer.", key="task.verbalizer")
    family = with_key("backbone.asset", family_of, model_folder(backbone.asset))
    check_task(task, patterns, family, with_key("backbone.asset", bare_tokenizer, backbone), "task")


def check_search(task: Task, family: Family) -> None:
    """Words are searched where one token is read."""
    for name in task.patterns:
        if family == "causal" and not task.pattern(name).ends_in_mask:
            raise InputError(
                f"words cannot be searched for pattern {name!r}: a causal model reads them at the end only.",
                "Put {mask} at the end of the pattern, or write a verbalizer.",
                key=f"task.patterns.{name}",
            )


def check_words(task: Task, family: Any, tokenizer: Any, patterns: Iterable[str], place: str) -> None:
    """Looks every label word up in the vocabulary."""
    for pattern in patterns:
        try:
            Verbalizer.of(task.words(pattern), tokenizer, family)
        except InputError as error:
            label = next((item for item in task.answers if f"of {item!r}" in error.problem), None)
            key = f"{place}.verbalizer.{label}" if label else f"{place}.verbalizer"
            raise error.at(key=key) from error


def bare_tokenizer(backbone: BackboneConfig) -> Any:
    """The tokenizer without transformers, whose import alone takes longer than a whole check.

    Raises:
        AssetError: the backbone's folder holds no tokenizer, or a damaged one.
    """
    from tokenizers import Tokenizer

    folder = model_folder(backbone.asset)
    # asked for by name: without any file transformers makes an empty tokenizer and says nothing
    if not any(item for form in ("tokenizer*", "vocab*", "*.model") for item in folder.glob(form)):
        raise AssetError(f"{folder} holds no tokenizer.", "Put tokenizer.json beside the weights.")
    try:
        if (folder / "tokenizer.json").exists():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.no_padding()  # some files ask for it, and a word would have as many tokens as a text
            return tokenizer
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises nothing more exact
        raise AssetError(f"the tokenizer in {folder} cannot be read ({error}).", "Fetch it again.") from error


def check_token_level_family(config: PipelineConfig, family: Family) -> None:
    """Refuses deep prompts where no state of a token sees them.

    Raises:
        InputError: names the key.
    """
    if family != "seq2seq" or not token_level_tasks(config.prompts):
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
