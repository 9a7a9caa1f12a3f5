"""Everything that can be wrong with a recipe, found before anything expensive starts: assets, data, patterns, label
words.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.config import PipelineConfig
from pipelines.schema.sections import PptSection
from pipelines.steps import annotated, pretraining_steps, shard_steps
from stages import splits
from stages.errors import AssetError, InputError, VerbalizerError
from stages.models.backbones import BackboneConfig
from stages.models.encoders import check_pooling
from stages.models.model_files import family_of, model_folder, num_positions, refuse_pickled, translated
from stages.patterns.encoding import Family, check_pattern
from stages.patterns.language import Pattern
from stages.patterns.verbalizers import Verbalizer
from stages.pretraining.formats import need, task_of
from stages.pretraining.pseudo_labels import classifier_folder
from stages.prompts.deep import check_deep
from stages.prompts.methods import PromptConfig, check_fit
from stages.tasks import Task
from stages.texts import assets, reach
from stages.texts.corpora import Documents, Window, check_enough

OnStart = Callable[[str, int, int], None]
"""Told what begins, how many things are done, and of how many: for the display."""


def check(config: PipelineConfig, on_start: OnStart) -> None:
    """Fetches what is missing and checks the whole recipe against it.

    Raises:
        InputError: with the dotted place in the recipe as its `key`.
    """
    fetch(config.assets, on_start)
    check_lengths(config)
    for task, data, place in config.datasets.values():
        try:
            splits.draw(splits.Config(data=data, labels=task.labels, fields=task.fields, seed=0))
        except InputError as error:
            raise _under(error, place) from error
    annotated.check_data(config)
    shard_steps.check(config)
    if config.ppt:
        pretraining_steps.check_shards(config.ppt)
        check_corpus(config.ppt)
    check_models(config)
    for place, encoder in config.encoders.items():
        _at(f"{place}.asset", refuse_pickled, model_folder(encoder.asset))
        try:
            check_pooling(encoder.pooling, model_folder(encoder.asset))
        except InputError as error:
            raise type(error)(error.problem, error.remedy, key=f"{place}.{error.key}") from error


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
        family = _at(f"{place}.asset", family_of, model_folder(backbone.asset))
        if section.mlm is not None and family != "masked":
            raise InputError(
                f"the auxiliary loss (mlm) is for masked models; {backbone.asset.partition('#')[0]} is {family}.",
                "Take mlm out, or name a masked backbone.",
                key=f"{where}.mlm",
            )
        tokenizer = _at(f"{place}.asset", bare_tokenizer, backbone)
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
        annotated.check_family(config, family)
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
        _at(place, partial(check_fit, method), pattern)
    if method.is_deep:
        kind = json.loads((model_folder(backbone.asset) / "config.json").read_text())["model_type"]
        _at(place, partial(check_deep, family), kind)


def check_formats(ppt: PptSection, family: Family, tokenizer: Any) -> None:
    """Checks the words of every format of pretraining; a classifier, if it is there, for its labels.

    Raises:
        InputError: a word is not in the vocabulary, a letter that stands for an option is no single token, or the
            classifier has other labels.
    """
    for kind in ppt.formats:
        task = task_of(kind, ppt.num_options(kind)[1], ppt.single.words)
        place = "ppt.single.words" if kind == "single" else "ppt.formats"
        words = _at(place, lambda found: Verbalizer.of(found, tokenizer, family), task.words(family))
        long = [label for label, word in zip(words.labels, words.words, strict=True) if len(word[0]) > 1]
        if long and kind in ("choice", "unified"):
            raise VerbalizerError(
                f"the letter {long[0]}, which stands for an option, is no single token of the backbone's vocabulary.",
                f"Take fewer options (ppt.{kind}_options), or take {kind} out.",
                key=place,
            )
    if "single" in ppt.formats and ppt.single.classifier and assets.is_cached(ppt.single.classifier):
        try:
            classifier_folder(ppt.single)
        except InputError as error:
            raise type(error)(error.problem, error.remedy, key=f"ppt.{error.key}") from error


def check_corpus(ppt: PptSection) -> None:
    """Reads as much of the corpus as tells that it has enough documents; one of the hub is passed over.

    Raises:
        DataError: it cannot be read, or has too few documents that are long enough.
    """
    if ppt.corpus.source.asset.startswith("hf:"):
        return
    for kind in ppt.formats:
        wanted = need(kind, ppt.num_options(kind)[1])
        corpus = Documents(ppt.corpus, wanted.sentences)
        try:
            check_enough(corpus, Window(corpus, wanted.documents), wanted.documents, f"the format {kind}")
        except InputError as error:
            key = f"ppt.{error.key}" if error.key else "ppt.corpus.source"
            raise type(error)(error.problem, error.remedy, key=key, where=error.where) from error


def _is_ready(ref: str) -> bool:
    """Whether a backbone's folder can be read without fetching or translating anything."""
    if not assets.is_cached(ref):
        return False
    path = assets.resolve(ref)
    return path.suffix != ".gguf" or (translated(path) / "config.json").exists()


def fetch(wanted: dict[str, str], on_start: OnStart) -> None:
    """Brings assets into the cache: first asks for all of them whether they can be had, then fetches one by one.

    Args:
        wanted: Dotted place in the recipe -> reference.
        on_start: Told before each one.
    """
    missing = {place: ref for place, ref in wanted.items() if not _at(place, assets.is_cached, ref)}
    on_start("asking whether everything can be fetched", 0, len(missing) + 1)
    refused = reach.unreachable(missing.values())
    for place, ref in missing.items():
        if ref in refused:
            raise refused[ref].at(key=place)
    for done, (place, ref) in enumerate(missing.items()):
        on_start(f"fetching {ref.partition('#')[0]}", done, len(missing) + 1)
        _at(place, assets.resolve, ref)
    on_start("reading the backbone (a GGUF file is translated the first time)", len(missing), len(missing) + 1)
    for place, ref in wanted.items():
        is_model = place.endswith(("backbone.asset", "student.asset", "encoder.asset"))
        _at(place, prepare_model if is_model else assets.resolve, ref)
    on_start("checking data, patterns and label words", len(missing) + 1, len(missing) + 1)


def prepare_model(ref: str) -> Path:
    """The folder of a model. A GGUF file is translated in a process of its own, whose memory is given back."""
    path = assets.resolve(ref)
    if path.suffix == ".gguf":
        code = "import sys; from stages.models.model_files import model_folder; model_folder(sys.argv[1])"
        if not (translated(path) / "config.json").exists():
            done = subprocess.run([sys.executable, "-c", code, ref], capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["?"])[-1]
                raise AssetError(f"{path.name} cannot be read ({reason}).", "Name another GGUF file or a folder.")
    return model_folder(ref)


def check_lengths(config: PipelineConfig) -> None:
    """Refuses texts that, with the prompt before them, are longer than a model has positions.

    Raises:
        InputError: at `backbone.max_length` or `student.max_length`.
    """
    for place, model in (config.backbones | config.encoders).items():
        extra = config.num_prompt_vectors(place)
        room = num_positions(model_folder(model.asset))
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
    family = _at("backbone.asset", family_of, model_folder(backbone.asset))
    check_task(task, patterns, family, _at("backbone.asset", bare_tokenizer, backbone), "task")


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


def _at(place: str, function: Callable[[Any], Any], argument: Any) -> Any:
    """Calls `function`, and puts `place` into its complaint."""
    try:
        return function(argument)
    except InputError as error:
        raise error.at(key=place) from error
    except json.JSONDecodeError as error:
        raise AssetError(f"not JSON ({error}).", "Fetch the file again.", key=place) from error


def _under(error: InputError, place: str) -> InputError:
    """A key that starts with `data` moves under the section that holds this data."""
    if error.key == "data" or error.key.startswith("data."):
        return type(error)(error.problem, error.remedy, key=place + error.key.removeprefix("data"), where=error.where)
    return error.at(key=place)
