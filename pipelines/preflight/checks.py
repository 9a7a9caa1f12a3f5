"""Checks a whole recipe before a run: fetches its assets, reads its data, corpora and shards, and checks models,
patterns and label words.

Downloads the assets of a recipe into the cache, after checking that all of them are available.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipelines.preflight.models import check_folders, check_lengths, check_models, code_warnings, is_ready
from pipelines.preflight.remembered import remembered
from pipelines.schema.config import PipelineConfig
from pipelines.schema.locations import errors_located_in
from pipelines.schema.sections.ensemble import ShardsSection
from pipelines.schema.sections.knowledge_probing import KnowledgeProbingSection
from pipelines.schema.sections.prompts import PptSection, generation_tasks, regression_tasks, token_level_tasks
from stages.common.assets import availability
from stages.common.assets.cache import is_cached, resolve
from stages.common.assets.references import Asset
from stages.common.config import asset_refs
from stages.common.data import text_shards
from stages.common.data.config import Source
from stages.common.data.corpora import Documents, Window, check_enough, document_texts
from stages.common.errors import AssetError, DataError, InputError
from stages.common.models.adapter_files import check_adapter
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.model_files import check_pooling, is_translated, model_folder
from stages.common.models.remote_code import check_code
from stages.distillation.config import min_unlabeled
from stages.generation.packages import check_packages
from stages.generation.splits import stage as generation_splits
from stages.generation.splits.config import GenerationSplitsConfig
from stages.knowledge_probing.config import RELATION, SUBJECT
from stages.knowledge_probing.relations import check_relations, read_templates
from stages.llm.config import LlmConfig
from stages.llm.costs import Estimate
from stages.llm.questions import ANSWER_TOKENS, Questions
from stages.prompt_pretraining.config import SingleConfig
from stages.prompt_pretraining.formats import corpus_requirements
from stages.regression.splits import stage as regression_splits
from stages.regression.splits.config import RegressionSplitsConfig
from stages.splits.config import SplitsConfig
from stages.splits.stage import Split, sample_splits
from stages.token_level.splits import stage as token_level_splits
from stages.token_level.splits.config import TokenLevelSplitsConfig

OnStart = Callable[[str, int, int], None]
"""Called with the name of the next task, the number of finished tasks, and the number of all tasks, for the display."""


def fetch(
    refs: Mapping[str, str],
    on_start: OnStart,
    *,
    models: Collection[str] = ("backbone.asset",),
    backbones: Mapping[str, BackboneConfig] | None = None,
) -> None:
    """Downloads assets into the cache, one after another, once it is known that all of them are available.

    Args:
        refs: Dotted key -> reference.
        on_start: Called before each task.
        models: Keys whose assets are models. GGUF files among them are translated.
        backbones: Dotted key -> language model. Their adapters are merged.

    Raises:
        AssetError: an asset is unavailable or damaged; with its dotted key.
    """
    missing = {}
    for key, ref in refs.items():
        with errors_located_in(key):
            if not is_cached(ref):
                missing[key] = ref
    num_tasks = len(missing) + 1
    on_start("checking that everything is available", 0, num_tasks)
    unavailable = availability.find_unavailable(missing.values())
    for key, ref in missing.items():
        if ref in unavailable:
            raise unavailable[ref].at(key=key)
    for num_finished, (key, ref) in enumerate(missing.items()):
        on_start(f"downloading {ref.partition('#')[0]}", num_finished, num_tasks)
        with errors_located_in(key):
            resolve(ref)
    on_start("reading the models (GGUF files are translated, and adapters merged, once)", len(missing), num_tasks)
    for key, ref in refs.items():
        with errors_located_in(key):
            prepare_model(ref) if key in models else resolve(ref)
    for key, backbone in (backbones or {}).items():
        with errors_located_in(f"{key}.adapter"):
            merge_adapter(backbone)
    on_start("checking data, patterns and label words", num_tasks, num_tasks)


def prepare_model(ref: str) -> Path:
    """Returns the folder of a model. A packed file is translated in a separate process, which frees its memory."""
    path = resolve(ref)
    if not is_translated(path):
        code = "import sys; from stages.common.models.model_files import model_folder; model_folder(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", code, ref], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["?"])[-1]
            raise AssetError(f"{path.name} cannot be read ({reason}).", "Use another file or a folder.")
    return model_folder(ref)


def merge_adapter(backbone: BackboneConfig) -> None:
    """Merges the adapter of a backbone, if it has one, in a separate process, which frees its memory.

    Raises:
        AssetError: the adapter cannot be merged into the model.
    """
    if backbone.adapter is None or is_ready(backbone):
        return
    check_code(model_folder(backbone.asset), trust_remote_code=backbone.trust_remote_code)
    check_adapter(resolve(backbone.adapter))
    code = "import sys; from stages.common.models.backbones.folders import prepare; sys.exit(prepare(sys.argv[1]))"
    command = [sys.executable, "-c", code, backbone.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 1 and done.stdout.startswith("["):
        problem, remedy = json.loads(done.stdout)
        raise AssetError(problem, remedy)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
        raise AssetError(f"{backbone.adapter} cannot be merged ({reason}).", "Use a machine with more memory.")


ROWS_CHECKED = 100
"""Rows of each shard that are read before a run. The steps read all rows before they compute anything."""


@dataclass(frozen=True, slots=True)
class LocalCheck:
    """The outcome of a check without a download."""

    not_fetched: Mapping[str, str]
    """Dotted key -> reference of each asset that is not fetched yet."""
    warnings: tuple[str, ...]


def check_recipe(config: PipelineConfig, on_start: OnStart) -> tuple[str, ...]:
    """Fetches missing assets and checks the whole recipe against them. Returns warnings.

    Raises:
        InputError: with the dotted key in the recipe.
    """
    check_api_keys(config)
    for ref in hub_datasets(config).values():
        availability.note_dataset_revision(ref)
    models = [f"{key}.asset" for key in config.backbones | config.encoders]
    fetch(config.assets, on_start, models=models, backbones=config.backbones)
    if config.llm_members or hub_datasets(
        config
    ):  # neither answers nor datasets of the hub are files that can be compared
        return check_contents(config)
    return remembered(config, _files(config, config.assets), lambda: check_contents(config), scope="run")


def check_local(config: PipelineConfig) -> LocalCheck:
    """Checks a recipe as far as it can without a download. Files that passed are not read again until they change.

    Raises:
        InputError: with the dotted key in the recipe.
    """
    check_api_keys(config)
    not_fetched = {}
    for key, ref in config.assets.items():
        with errors_located_in(key):
            if not is_cached(ref):
                if Asset.parse(ref).scheme == "path":
                    resolve(ref)  # raises the error: it does not exist
                not_fetched[key] = ref
    files = _files(config, [key for key in config.assets if key not in not_fetched])
    if config.llm_members:  # the number of requests changes with every answer
        warnings = check_contents(config, only_cached=True)
    else:
        warnings = remembered(config, files, lambda: check_contents(config, only_cached=True), scope="plan")
    return LocalCheck(not_fetched | hub_datasets(config), warnings)


def _files(config: PipelineConfig, keys: Iterable[str]) -> list[Path]:
    """Returns the files and folders of these assets, and the shards."""
    files = [resolve(config.assets[key]) for key in keys]
    if config.unlabeled_shards:
        with errors_located_in("unlabeled_shards.source"):
            files += text_shards.shard_files(config.unlabeled_shards.source.asset).values()
    return files


def hub_datasets(config: PipelineConfig) -> dict[str, str]:
    """Returns dotted key -> reference of the datasets of the hub, which the datasets library fetches."""
    sources = asset_refs(config, include=lambda model: not isinstance(model, ShardsSection | SingleConfig))
    return {key: ref for key, ref in sources.items() if ref.startswith("hf:") and key not in config.assets}


def newer_assets(config: PipelineConfig) -> list[str]:
    """Returns a sentence for each asset without a pin that has changed since it was fetched. Takes seconds."""
    refs = {**config.assets, **hub_datasets(config)}
    remedies = availability.find_newer(refs.values())
    return [
        f"{key}: {ref} has changed since it was fetched. {remedies[ref]}"
        for key, ref in refs.items()
        if ref in remedies
    ]


def check_contents(config: PipelineConfig, *, only_cached: bool = False) -> tuple[str, ...]:
    """Reads data, corpora and shards, and checks models, patterns and label words. Returns warnings.

    Args:
        config: The recipe.
        only_cached: Skips what must be downloaded or translated first, as a plan does.

    Raises:
        InputError: with the dotted key in the recipe.
    """

    def can_read(*sources: Source) -> bool:
        return not only_cached or all(not item.asset.startswith("hf:") and is_cached(item.asset) for item in sources)

    check_folders(config, only_cached=only_cached)
    check_lengths(config, only_cached=only_cached)
    warnings = list(code_warnings(config.backbones))
    for task, data, section in config.datasets.values():
        if can_read(*data.sources.values()):
            with errors_located_in(section):
                splits = sample_splits(SplitsConfig.of(task, data=data, fields=task.fields))
            if task is config.task:
                warnings += [*data_warnings(config, splits), *request_estimates(config, splits)]
    for item in token_level_tasks(config.prompts):
        if can_read(*item.section.data.sources.values()):
            with errors_located_in(item.key):
                token_level_splits.sample_splits(TokenLevelSplitsConfig(task=item.task, data=item.section.data))
    for downstream in generation_tasks(config.prompts):
        with errors_located_in(downstream.key):
            check_packages()
            if can_read(*downstream.section.data.sources.values()):
                settings, sets = downstream.task, downstream.section.data
                generation_splits.sample_splits(
                    GenerationSplitsConfig(task=settings.name, fields=settings.fields, data=sets)
                )
    for numbers in regression_tasks(config.prompts):
        if can_read(*numbers.section.data.sources.values()):
            with errors_located_in(numbers.key):
                regression_splits.sample_splits(RegressionSplitsConfig(task=numbers.task, data=numbers.section.data))
    if config.knowledge_probing and can_read(*config.knowledge_probing.data.sources.values()):
        check_facts(config.knowledge_probing, only_cached=only_cached)
    check_unlabeled_shards(config)
    if config.ppt and can_read(config.ppt.corpus.source):
        check_corpus_shards(config.ppt)
        check_corpus(config.ppt)
    check_models(config, only_cached=only_cached)
    for key, encoder in config.encoders.items():
        if only_cached and not is_ready(encoder):
            continue
        with errors_located_in(key):
            check_pooling(encoder.pooling, model_folder(encoder.asset))
    return tuple(warnings)


def check_facts(section: KnowledgeProbingSection, *, only_cached: bool) -> None:
    """Reads facts and templates, and checks that each test fact has a template. A plan skips a file of templates that
    is not fetched.

    Raises:
        InputError: with the dotted key in the recipe.
    """
    with errors_located_in("knowledge_probing"):
        config = GenerationSplitsConfig(task=section.task, fields=(SUBJECT, RELATION), data=section.data)
        sets = generation_splits.sample_splits(config)
        if only_cached and section.relations is not None and not is_cached(section.relations):
            return
        check_relations(read_templates(section), {item.fields[RELATION] for item in sets["test"]})


def data_warnings(config: PipelineConfig, splits: Split) -> Iterator[str]:
    """Yields a sentence about each thing in the sets of the task that may hurt, with what to do.

    Raises:
        DataError: no text is left for the unlabeled set.
    """
    num_unlabeled, required = len(splits.unlabeled), min_unlabeled(len(config.task.labels))
    if not config.has_unlabeled or config.unlabeled_shards is not None:
        return
    if not num_unlabeled:
        raise DataError(
            "no text is left for the unlabeled set, from which students learn.",
            "Add texts to data.pool, or set data.unlabeled_size: 0.",
            key="data.pool",
        )
    if num_unlabeled < required:
        yield (
            f"students learn from {num_unlabeled:,} unlabeled texts; with fewer than {required:,} a supervised "
            "classifier is as good. Add texts to data.unlabeled, or remove it and set data.unlabeled_size: 0."
        )


def check_api_keys(config: PipelineConfig) -> None:
    """Checks that the API key of each endpoint is set.

    Raises:
        InputError: with the dotted key in the recipe.
    """
    for name, member in config.llm_members.items():
        with errors_located_in(f"members.{name}"):
            member.api_key()


def request_estimates(config: PipelineConfig, splits: Split) -> Iterator[str]:
    """Yields a sentence per member with an endpoint: how many requests it needs, and what they cost.

    Raises:
        InputError: they are above a limit of the member.
    """
    for name, member in config.llm_members.items():
        llm = LlmConfig.of(member, labels=config.task.labels, fields=config.task.fields)
        questions = Questions(llm, splits.train)
        examples = (*splits.train, *splits.unlabeled, *splits.test)
        estimate = Estimate.of([questions.request(item) for item in examples], llm, ANSWER_TOKENS)
        with errors_located_in(f"members.{name}"):
            estimate.check(llm)
        if not estimate.num_requests:
            continue
        yield (
            f"members.{name} sends up to {estimate.num_requests:,} requests with about "
            f"{estimate.num_input_tokens:,} tokens to {llm.url}{estimate.cost_text}. "
            "Answers are kept, and none is requested twice."
        )


def check_corpus(ppt: PptSection) -> None:
    """Reads the corpus until it has enough documents for every format. Skips datasets of the hub.

    Raises:
        DataError: the corpus cannot be read, or has too few documents that are long enough.
    """
    if ppt.corpus.source.asset.startswith("hf:"):
        return
    for kind in ppt.formats:
        required = corpus_requirements(kind, ppt.num_options(kind)[1])
        corpus = Documents(ppt.corpus, required.sentences)
        with errors_located_in("ppt"):
            try:
                check_enough(corpus, Window(corpus, required.documents), required.documents, f"the format {kind}")
            except InputError as error:
                raise error.at(key="corpus.source") from error


def check_corpus_shards(ppt: PptSection) -> None:
    """Reads the first rows of every shard of the corpus if it is in shards.

    Raises:
        DataError: the asset is not a folder, has no shards, or a row lacks the column.
    """
    if ppt.corpus.shards is None:
        return
    source = ppt.corpus.source
    if not Path(source.asset).expanduser().is_dir():
        raise DataError(
            f"{source.asset} is not a folder, but shards are the files of a folder.",
            f"Use a folder with files that end in {', '.join(text_shards.ENDINGS)}, or remove shards.",
            key="ppt.corpus.source.asset",
        )
    with errors_located_in("ppt.corpus.source"):
        for path in text_shards.shard_files(source.asset).values():
            for _ in islice(document_texts(source.model_copy(update={"asset": str(path)})), ROWS_CHECKED):
                pass


def check_unlabeled_shards(config: PipelineConfig) -> None:
    """Reads the first rows of every shard of unlabeled data.

    Raises:
        DataError: with the dotted key in the recipe.
    """
    if config.unlabeled_shards is None:
        return
    source = config.unlabeled_shards.source
    missing = [name for name in config.task.fields if name not in source.fields]
    if missing:
        raise DataError(
            f"the patterns read the field {missing[0]!r}, which the shards do not have.",
            f"Add it ({missing[0]}: COLUMN), or use one of: {', '.join(source.fields)}.",
            key="unlabeled_shards.source.fields",
        )
    with errors_located_in("unlabeled_shards.source"):
        text_shards.check_shards(source, ROWS_CHECKED)
