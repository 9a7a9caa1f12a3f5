"""Soft prompts over one backbone, of which only the most recently used ones are in memory.

The others are read from their folders when a text needs them, which takes milliseconds. So memory does not grow with
the number of prompts.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.serving.served_tasks import ConflictError
from stages.common.errors import AssetError, InputError
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.linear_heads import load_head
from stages.common.prompts.config import SERVING_FILE, PromptServingConfig
from stages.common.prompts.loader import load_prompts
from stages.common.prompts.peft_format import load_prompt


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """A prompt that is served, whether or not it is in memory.

    Args:
        task: The task that requests name.
        name: The version of the task.
        folder: Where its files are.
        fields: The fields of its rows.
        labels: Its labels.
        max_length: Maximum number of tokens of a text.
        digest: Hash of its files.
    """

    task: str
    name: str
    folder: Path
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    max_length: int
    digest: str


class PromptCache:
    """Loads prompts over one backbone, and keeps the `capacity` ones that were used last. For one thread."""

    def __init__(self, first: Path, capacity: int) -> None:
        """
        Args:
            first: Folder of a prompt, which has the backbone of all others.
            capacity: Number of prompts in memory.

        Raises:
            InputError: the folder has no prompt.
        """
        self.capacity = capacity
        self._config = serving_config(first)
        self._first, self._first_digest = first, _digest(first)
        (classifier,) = load_prompts([first])
        self._backbone = classifier.backbone
        self._loaded: OrderedDict[tuple[Path, str], ClozeClassifier] = OrderedDict()
        self._loaded[first, self._first_digest] = classifier

    @property
    def num_loaded(self) -> int:
        """Returns the number of prompts in memory."""
        return len(self._loaded)

    def version(self, task: str, name: str, folder: Path) -> PromptVersion:
        """Reads what a prompt is, and loads it, so that a broken one is an error now.

        Raises:
            InputError: the folder has no prompt, or the prompt needs another backbone.
        """
        config = serving_config(folder)
        version = PromptVersion(
            task, name, folder, config.task.fields, config.task.labels, config.backbone.max_length, _digest(folder)
        )
        self.get(version)
        return version

    def get(self, version: PromptVersion) -> ClozeClassifier:
        """Returns a prompt on its backbone, and drops the one that was not used for the longest time.

        Raises:
            InputError: the files have changed since the version was added.
        """
        key = (version.folder, version.digest)
        if key not in self._loaded:
            self._loaded[key] = self._load(version)
        self._loaded.move_to_end(key)
        while len(self._loaded) > self.capacity:
            self._loaded.popitem(last=False)
        return self._loaded[key]

    def keep_only(self, versions: Iterable[PromptVersion]) -> None:
        """Drops all other prompts from memory."""
        kept = {(item.folder, item.digest) for item in versions}
        for key in self._loaded.keys() - kept:
            del self._loaded[key]

    def _load(self, version: PromptVersion) -> ClozeClassifier:
        folder, config = version.folder, serving_config(version.folder)
        if config.backbone != self._config.backbone:
            raise ConflictError(
                f"the prompt in {folder} has another backbone ({config.backbone.asset}) than this service "
                f"({self._config.backbone.asset}).",
                "Serve only prompts of one backbone together.",
                key="folder",
            )
        for path in (folder, self._first):
            if (path / "prompt" / "lora").exists():
                raise ConflictError(
                    f"the prompt in {path} has LoRA weights, so it cannot share its backbone.",
                    "Serve it alone.",
                    key="folder",
                )
        if _digest(folder) != version.digest:
            raise AssetError(
                f"the files of {version.task}, version {version.name}, have changed in {folder}.",
                "Add them as a new version, and do not change the folder of a served prompt.",
            )
        prompt = load_prompt(folder / "prompt", self._backbone)
        head = load_head(folder / "prompt", self._backbone.hidden_size, config.task.labels)
        return ClozeClassifier.of(config.task, config.pattern, self._backbone, config.backbone, prompt, head=head)


def serving_config(folder: Path) -> PromptServingConfig:
    """Reads what a prompt needs.

    Raises:
        InputError: the folder has no prompt.
    """
    try:
        return PromptServingConfig.model_validate_json((folder / SERVING_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} has no {SERVING_FILE}.", "Specify the folder of a prompt.", key="folder") from None


def _digest(folder: Path) -> str:
    """Returns the hash of all files of a prompt."""
    found = hashlib.sha256()
    for path in (folder / SERVING_FILE, *sorted((folder / "prompt").rglob("*"))):
        if path.is_file():
            found.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
            found.update(path.read_bytes())
    return found.hexdigest()
