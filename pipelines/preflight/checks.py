"""Checks a whole recipe before a run: fetches its assets, reads its data, corpora and shards, and checks models,
patterns and label words.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from pipelines.preflight.assets import OnStart, fetch
from pipelines.preflight.models import check_lengths, check_models
from pipelines.schema.config import PipelineConfig
from pipelines.schema.locations import with_key
from pipelines.schema.sections.prompts import PptSection, token_level_tasks
from stages.common.data import text_shards
from stages.common.data.corpora import Documents, Window, check_enough, document_texts
from stages.common.errors import DataError, InputError
from stages.common.models.model_files import check_pooling, model_folder, refuse_pickled
from stages.prompt_pretraining.formats import corpus_requirements
from stages.splits.config import SplitsConfig
from stages.splits.stage import sample_splits
from stages.token_level.splits import stage as annotation_splits
from stages.token_level.splits.config import TokenLevelSplitsConfig


def check_recipe(config: PipelineConfig, on_start: OnStart) -> None:
    """Fetches what is missing and checks the whole recipe against it.

    Raises:
        InputError: with the dotted place in the recipe as its `key`.
    """
    fetch(config.assets, on_start)
    check_lengths(config)
    for task, data, place in config.datasets.values():
        try:
            sample_splits(SplitsConfig(data=data, labels=task.labels, fields=task.fields, seed=0))
        except InputError as error:
            raise _with_section_key(error, place) from error
    check_token_level_data(config)
    check_unlabeled_shards(config)
    if config.ppt:
        check_corpus_shards(config.ppt)
        check_corpus(config.ppt)
    check_models(config)
    for place, encoder in config.encoders.items():
        with_key(f"{place}.asset", refuse_pickled, model_folder(encoder.asset))
        try:
            check_pooling(encoder.pooling, model_folder(encoder.asset))
        except InputError as error:
            raise type(error)(error.problem, error.remedy, key=f"{place}.{error.key}") from error


def check_corpus(ppt: PptSection) -> None:
    """Reads as much of the corpus as tells that it has enough documents; one of the hub is passed over.

    Raises:
        DataError: it cannot be read, or has too few documents that are long enough.
    """
    if ppt.corpus.source.asset.startswith("hf:"):
        return
    for kind in ppt.formats:
        wanted = corpus_requirements(kind, ppt.num_options(kind)[1])
        corpus = Documents(ppt.corpus, wanted.sentences)
        try:
            check_enough(corpus, Window(corpus, wanted.documents), wanted.documents, f"the format {kind}")
        except InputError as error:
            key = f"ppt.{error.key}" if error.key else "ppt.corpus.source"
            raise type(error)(error.problem, error.remedy, key=key, where=error.where) from error


def _with_section_key(error: InputError, place: str) -> InputError:
    """A key that starts with `data` moves under the section that holds this data."""
    if error.key == "data" or error.key.startswith("data."):
        return type(error)(error.problem, error.remedy, key=place + error.key.removeprefix("data"), where=error.where)
    return error.at(key=place)


def check_token_level_data(config: PipelineConfig) -> None:
    """Reads every file.

    Raises:
        DataError: with the dotted place in the recipe as its key.
    """
    for item in token_level_tasks(config.prompts):
        try:
            annotation_splits.sample_splits(TokenLevelSplitsConfig(task=item.task, data=item.data, seed=0))
        except InputError as error:
            place = item.place + "." + error.key if error.key else item.place
            raise type(error)(error.problem, error.remedy, key=place, where=error.where) from error


CORPUS_ROWS_CHECKED = 100
"""Rows of each shard that are read before anything runs; the step reads all of them before it builds anything."""


def check_corpus_shards(ppt: PptSection) -> None:
    """Reads the first rows of every shard of the corpus, where shards are asked for.

    Raises:
        DataError: there is no folder, no shard, or a row without the column; with its place in the recipe as its key.
    """
    if ppt.corpus.shards is None:
        return
    source = ppt.corpus.source
    if not Path(source.asset).expanduser().is_dir():
        raise DataError(
            f"{source.asset} is no folder, and shards are the files of one.",
            f"Name a folder with files that end in {', '.join(text_shards.ENDINGS)}; or take shards out.",
            key="ppt.corpus.source.asset",
        )
    try:
        for path in text_shards.shard_files(source.asset).values():
            for _ in islice(document_texts(source.model_copy(update={"asset": str(path)})), CORPUS_ROWS_CHECKED):
                pass
    except InputError as error:
        raise error.at(key="ppt.corpus.source") from error


SHARD_ROWS_CHECKED = 100
"""Rows of each shard that are read before anything runs; the step reads all of them before it labels one."""


def check_unlabeled_shards(config: PipelineConfig) -> None:
    """Reads the first rows of every shard.

    Raises:
        DataError: with the dotted place in the recipe as its key.
    """
    if config.unlabeled_shards is None:
        return
    source = config.unlabeled_shards.source
    missing = [name for name in config.task.fields if name not in source.fields]
    if missing:
        raise DataError(
            f"the patterns take the field {missing[0]!r}, which the shards do not have.",
            f"Add it ({missing[0]}: COLUMN), or use one of: {', '.join(source.fields)}.",
            key="unlabeled_shards.source.fields",
        )
    try:
        text_shards.check_shards(source, SHARD_ROWS_CHECKED)
    except InputError as error:
        raise error.at(key="unlabeled_shards.source") from error
