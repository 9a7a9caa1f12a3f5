"""Loads trained sub-models, probes and prompts for inference.

Members of an ensemble that use the same backbone share it: their adapters are loaded next to each other, and each
member activates its own. So a process has each backbone in memory once. Prompts of several tasks are served over one
frozen backbone; such a folder has `prompt/` (PEFT's format) and a file that names task, pattern and backbone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel

from stages.common.assets.cache import identity
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import borrow_backbone, load_backbone
from stages.common.models.batching import wants_bf16
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.linear_heads import load_head
from stages.common.patterns.config import Task
from stages.common.patterns.verbalizers import found_words
from stages.common.prompts.config import SERVING_FILE, ProbeSpec, PromptServingConfig, SubModelSpec
from stages.common.prompts.peft_format import load_prompt
from stages.common.protocols import LogitModel, Recorder


@dataclass(slots=True)
class SharedBackbone:
    """A backbone that several members read, and the adapters in it by name; `wrapped`: PEFT's model around it."""

    backbone: Backbone
    wrapped: Any = None


@dataclass(slots=True)
class AdapterMember:
    """A sub-model whose adapter is one of several in its backbone."""

    classifier: ClozeClassifier
    shared: SharedBackbone
    adapter: str

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] logits, in the order of `examples`."""
        self.shared.wrapped.set_adapter(self.adapter)
        self.shared.backbone.freeze()
        return self.classifier.predict(examples, recorder, phase)


@dataclass(slots=True)
class MemberLoader:
    """Loads members; those that can share a backbone do."""

    words: Sequence[Path] = ()
    _shared: dict[tuple[str, str, bool], SharedBackbone] = field(default_factory=dict)

    def load(self, voter: SubModelSpec | ProbeSpec, folder: Path) -> LogitModel:
        """The member that lies in `folder`."""
        if isinstance(voter, ProbeSpec):
            probe = TextClassifier.load(folder / "model")
            probe.predicts_in_bf16 = wants_bf16(voter.encoder.precision)
            return probe

        task = voter.task if voter.words is None else voter.task.with_words(found_words(self.words[voter.words]))
        tune = json.loads((folder / "submodel.json").read_text())["tune"]
        if tune == "full":
            own = voter.backbone.model_copy(update={"asset": str(folder / "model")})
            return ClozeClassifier.of(task, voter.pattern, load_backbone(own, frozen=True), voter.backbone)
        shared = self._backbone(voter.backbone, has_adapters=tune == "lora")
        prompt = None
        if tune == "prompt":
            prompt = load_prompt(folder / "prompt", shared.backbone)
        classifier = ClozeClassifier.of(task, voter.pattern, shared.backbone, voter.backbone, prompt)
        return AdapterMember(classifier, shared, _put_on(shared, folder / "adapter")) if tune == "lora" else classifier

    def _backbone(self, config: BackboneConfig, *, has_adapters: bool) -> SharedBackbone:
        key = (identity(config.asset), config.precision, has_adapters)
        if key not in self._shared:
            self._shared[key] = SharedBackbone(load_backbone(config, frozen=True))
        return self._shared[key]


def _put_on(shared: SharedBackbone, folder: Path) -> str:
    """Puts an adapter beside those that are there; returns its name."""

    if shared.wrapped is None:
        shared.wrapped = PeftModel.from_pretrained(shared.backbone.model, folder, adapter_name="0")
        return "0"
    name = str(len(shared.wrapped.peft_config))
    shared.wrapped.load_adapter(folder, adapter_name=name)
    return name


@contextmanager
def load_submodel(folder: Path, task: Task, config: BackboneConfig) -> Iterator[ClozeClassifier]:
    """The sub-model that lies in `folder`, ready to predict."""
    about = json.loads((folder / "submodel.json").read_text())
    if about["tune"] == "full":
        backbone = load_backbone(config.model_copy(update={"asset": str(folder / "model")}), frozen=True)
        yield ClozeClassifier.of(task, about["pattern"], backbone, config)
        return
    with borrow_backbone(config) as backbone:
        adapter = prompt = None
        if about["tune"] == "prompt":
            prompt = load_prompt(folder / "prompt", backbone)
        if about["tune"] == "lora":
            adapter = PeftModel.from_pretrained(backbone.model, folder / "adapter")
            backbone.freeze()
        yield ClozeClassifier.of(task, about["pattern"], backbone, config, prompt)
        if adapter is not None:
            adapter.unload()


def load_prompts(folders: Sequence[Path]) -> list[ClozeClassifier]:
    """Classifiers of all folders, over one resident backbone.

    Raises:
        InputError: the prompts are for different backbones, two are for one task, or one of several brings LoRA
            weights, which change the backbone for all.
    """
    abouts = [
        PromptServingConfig.model_validate_json((folder / SERVING_FILE).read_text(encoding="utf-8"))
        for folder in folders
    ]
    if len({about.backbone for about in abouts}) > 1:
        raise InputError("the prompts are for different backbones.", "Serve those of one backbone together.")
    names = [about.task.name for about in abouts]
    if len(set(names)) < len(names):
        raise InputError(f"two prompts are for the same task: {', '.join(names)}.", "Name one prompt a task.")
    adapters = [folder / "prompt" / "lora" for folder in folders if (folder / "prompt" / "lora").exists()]
    if adapters and len(folders) > 1:
        raise InputError("a prompt with LoRA weights cannot share its backbone.", f"Serve it alone: {adapters[0]}.")
    config = abouts[0].backbone
    backbone = load_backbone(config, frozen=True)
    for adapter in adapters:
        PeftModel.from_pretrained(backbone.model, adapter)
        backbone.freeze()
    found = []
    for about, folder in zip(abouts, folders, strict=True):
        prompt = load_prompt(folder / "prompt", backbone)
        head = load_head(folder / "prompt", backbone.hidden_size, about.task.labels)
        found.append(ClozeClassifier.of(about.task, about.pattern, backbone, config, prompt, head=head))
    return found
