"""Sub-models, and the loader of trained sub-models, probes and soft prompts. Each folder describes itself.

    submodel.json           a sub-model, one pattern on one backbone: task, pattern, backbone, and what was tuned;
                            with `adapter/` (PEFT's format, megabytes), `prompt/` (PEFT's format, kilobytes),
                            `weights.safetensors` (bottlenecks, biases or blocks), `model/` (the full backbone) or,
                            without training, nothing; with demonstrations, their settings and labeled examples
    prompt_model.json       a soft prompt: task, pattern and backbone; the prompt is in `prompt/`
    model/classifier.json   a probe, or another text classifier

Models of one `ModelLoader` that use the same backbone share it, so a process has each backbone in memory once. Adapters
are loaded next to each other, and each model activates its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig, Tune, TuneConfig
from stages.common.models.backbones.folders import backbone_identity
from stages.common.models.backbones.loader import borrow_backbone, load_backbone
from stages.common.models.backbones.partitioned import complete_state_dict
from stages.common.models.backbones.tuning import (
    PART_KINDS,
    PEFT_KINDS,
    WEIGHTS_FILE,
    bottlenecks,
    load_trained,
    peft_adapter,
    save_trained,
    select_parameters,
)
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.demonstrations import load_demonstrations
from stages.common.models.encoders.text_classifier import CLASSIFIER_FILE, TextClassifier
from stages.common.models.linear_heads import LinearHead, load_head
from stages.common.models.tfidf_classifier import TFIDF_FILE, TfidfClassifier
from stages.common.models.word_vectors import WORD_VECTORS_FILE, WordVectorClassifier
from stages.common.patterns.config import Task
from stages.common.prompts.config import SERVING_FILE, PromptServingConfig
from stages.common.prompts.peft_format import PROMPT_FILE, load_prompt, save_prompt, tidy
from stages.common.prompts.soft_prompt import Prompt
from stages.common.protocols import Engine, LogitModel, Recorder

SUBMODEL_FILE = "submodel.json"


class SubModelMetadata(PromptServingConfig):
    """What a sub-model is: task, pattern, backbone, and what of the backbone was tuned."""

    tune: Tune

    @classmethod
    def load(cls, folder: Path) -> SubModelMetadata:
        """Reads the metadata of the sub-model in `folder`."""
        return cls.model_validate_json((folder / SUBMODEL_FILE).read_text(encoding="utf-8"))


@dataclass(slots=True)
class SubModel:
    """A backbone whose trained parameters require gradients, and its soft prompt, if any."""

    backbone: Backbone
    config: BackboneConfig
    tune: Tune
    adapter: Any = None
    """PEFT's wrapper, for tune: lora and ia3."""
    prompt: Prompt | None = None
    """The soft prompt, for tune: prompt."""

    def save(self, task: Task, pattern: str, out: Path) -> None:
        """Writes the sub-model for a pattern of `task` to `out`."""
        metadata = SubModelMetadata(task=task, pattern=pattern, backbone=self.config, tune=self.tune)
        (out / SUBMODEL_FILE).write_text(metadata.model_dump_json() + "\n", encoding="utf-8")
        if self.tune == "full":
            model = self.backbone.model
            model.save_pretrained(out / "model", state_dict=complete_state_dict(model))
            self.backbone.tokenizer.save_pretrained(out / "model")
        elif self.adapter is not None:
            self.adapter.save_pretrained(out / "adapter")
            tidy(out / "adapter")
        elif self.tune == "adapter" or self.tune in PART_KINDS:
            save_trained(self.backbone.model, out)
        elif self.prompt is not None:
            save_prompt(self.prompt, self.backbone, out / "prompt")


@contextmanager
def new_submodel(
    config: BackboneConfig, tuning: TuneConfig, seed: int, engine: Engine | None = None
) -> Iterator[SubModel]:
    """Yields a new sub-model: with weights of its own if these are trained, or on the cached backbone."""
    if tuning.tune == "full" or tuning.tune in PART_KINDS:
        backbone = load_backbone(config, frozen=False, engine=engine)
        if tuning.tune != "full":
            select_parameters(backbone.model, tuning)
        yield SubModel(backbone, config, tuning.tune)
        return
    with borrow_backbone(config, engine) as backbone:
        if tuning.tune in PEFT_KINDS:
            with peft_adapter(backbone.model, tuning, seed) as adapter:
                yield SubModel(backbone, config, tuning.tune, adapter)
        elif tuning.tune == "adapter":
            with bottlenecks(backbone.model, tuning.adapter_size, seed):
                yield SubModel(backbone, config, tuning.tune)
        else:  # the caller adds the prompt, if any
            yield SubModel(backbone, config, tuning.tune)


@dataclass(slots=True)
class SharedBackbone:
    """A backbone that several models use. `peft_model` is PEFT's wrapper with their adapters, if any."""

    backbone: Backbone
    peft_model: Any = None

    def attach(self, folder: Path) -> str:
        """Loads an adapter next to the others; returns its name. The first one is active."""
        name = "0" if self.peft_model is None else str(len(self.peft_model.peft_config))
        if self.peft_model is None:
            self.peft_model = PeftModel.from_pretrained(self.backbone.model, folder, adapter_name=name)
        else:
            self.peft_model.load_adapter(folder, adapter_name=name)
        self.backbone.freeze()
        return name


@dataclass(slots=True)
class AdapterModel:
    """A sub-model whose adapter is one of several on its backbone."""

    classifier: ClozeClassifier
    shared: SharedBackbone
    adapter: str

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns logits, [n, C], in the order of `examples`."""
        self.shared.peft_model.set_adapter(self.adapter)
        self.shared.backbone.freeze()
        return self.classifier.predict(examples, recorder, phase)


class LoadedPrompt(NamedTuple):
    """A trained prompt on its backbone, with its LoRA weights and its linear head, if any. `prompt` is None if only
    LoRA weights were trained.
    """

    backbone: Backbone
    prompt: Prompt | None
    head: LinearHead | None


@contextmanager
def trained_prompt(folder: Path, config: BackboneConfig, engine: Engine) -> Iterator[LoadedPrompt]:
    """Yields the prompt in `folder/prompt` on the cached backbone of this process, with its LoRA weights if any."""
    lora = folder / "prompt" / "lora"
    with borrow_backbone(config, engine) as backbone:
        adapter = PeftModel.from_pretrained(backbone.model, lora) if lora.exists() else None
        backbone.freeze()
        yield LoadedPrompt(backbone, _prompt_in(folder / "prompt", backbone), None)
        if adapter is not None:
            adapter.unload()


def _prompt_in(folder: Path, backbone: Backbone) -> Prompt | None:
    """Returns the prompt in a folder; None if it has LoRA weights only."""
    if (folder / "lora").exists() and not (folder / PROMPT_FILE).exists():
        return None
    return load_prompt(folder, backbone)


class ModelLoader:
    """Loads models; those with the same backbone share it."""

    def __init__(self) -> None:
        self._shared: dict[tuple[str, str, str], SharedBackbone] = {}

    def load(self, folder: Path) -> LogitModel:
        """Loads an ensemble member. An encoder predicts in the precision that it was trained in."""
        if (folder / "model" / TFIDF_FILE).exists():
            return TfidfClassifier.load(folder / "model")
        if (folder / "model" / WORD_VECTORS_FILE).exists():
            return WordVectorClassifier.load(folder / "model")
        if (folder / "model" / CLASSIFIER_FILE).exists():
            probe = TextClassifier.load(folder / "model")
            probe.predicts_in_bf16 = probe.trains_in_bf16
            return probe
        metadata = SubModelMetadata.load(folder)
        if metadata.tune not in PEFT_KINDS:
            return self.load_submodel(folder)
        shared = self._backbone(metadata.backbone, metadata.tune)
        adapter = shared.attach(folder / "adapter")
        classifier = _classifier(metadata, folder, shared.backbone)
        return AdapterModel(classifier, shared, adapter)

    def load_submodel(self, folder: Path) -> ClozeClassifier:
        """Loads a sub-model. Load at most one with an adapter: adapters are only switched between members."""
        metadata = SubModelMetadata.load(folder)
        config, prompt = metadata.backbone, None
        if metadata.tune == "full":
            backbone = load_backbone(
                config.model_copy(update={"asset": str(folder / "model"), "adapter": None}), frozen=True
            )
        elif (folder / WEIGHTS_FILE).exists():
            backbone = load_backbone(config, frozen=True)
            load_trained(backbone.model, folder)
            backbone.freeze()
        else:
            shared = self._backbone(config, metadata.tune)
            backbone = shared.backbone
            if metadata.tune in PEFT_KINDS:
                shared.attach(folder / "adapter")
            if metadata.tune == "prompt":
                prompt = load_prompt(folder / "prompt", backbone)
        return _classifier(metadata, folder, backbone, prompt)

    def load_prompt(self, folder: Path, config: BackboneConfig, outputs: Sequence[str]) -> LoadedPrompt:
        """Loads the prompt in `folder/prompt`. `outputs`: names of the outputs of its head, if there is a head.

        Raises:
            InputError: the prompt or its head was trained for another backbone or other outputs.
        """
        lora = folder / "prompt" / "lora"
        shared = self._backbone(config, "lora" if lora.exists() else "prompt")
        if lora.exists():
            shared.attach(lora)
        prompt = _prompt_in(folder / "prompt", shared.backbone)
        head = load_head(folder / "prompt", shared.backbone.hidden_size, outputs)
        return LoadedPrompt(shared.backbone, prompt, head)

    def _backbone(self, config: BackboneConfig, tune: Tune) -> SharedBackbone:
        """Returns the backbone that all sub-models without adapters share, or all with adapters of one kind."""
        key = (backbone_identity(config), config.precision, tune if tune in PEFT_KINDS else "")
        if key not in self._shared:
            self._shared[key] = SharedBackbone(load_backbone(config, frozen=True))
        return self._shared[key]


def _classifier(
    metadata: SubModelMetadata, folder: Path, backbone: Backbone, prompt: Prompt | None = None
) -> ClozeClassifier:
    """Returns the classifier of a sub-model, with its demonstrations if it has some."""
    classifier = ClozeClassifier.of(metadata.task, metadata.pattern, backbone, metadata.backbone, prompt)
    load_demonstrations(folder, classifier)
    return classifier


def load_prompts(folders: Sequence[Path]) -> list[ClozeClassifier]:
    """Loads the prompts of several tasks over one backbone.

    Raises:
        InputError: the prompts have different backbones, two have the same task, or one of several has LoRA weights,
            which change the backbone for all.
    """
    configs = [
        PromptServingConfig.model_validate_json((folder / SERVING_FILE).read_text(encoding="utf-8"))
        for folder in folders
    ]
    if len({config.backbone for config in configs}) > 1:
        raise InputError("the prompts have different backbones.", "Serve only prompts of one backbone together.")
    names = [config.task.name for config in configs]
    if len(set(names)) < len(names):
        raise InputError(f"two prompts have the same task: {', '.join(names)}.", "Specify one prompt per task.")
    adapters = [folder / "prompt" / "lora" for folder in folders if (folder / "prompt" / "lora").exists()]
    if adapters and len(folders) > 1:
        raise InputError("a prompt with LoRA weights cannot share its backbone.", f"Serve it alone: {adapters[0]}.")
    loader = ModelLoader()
    classifiers = []
    for config, folder in zip(configs, folders, strict=True):
        backbone, prompt, head = loader.load_prompt(folder, config.backbone, config.task.labels)
        classifiers.append(
            ClozeClassifier.of(config.task, config.pattern, backbone, config.backbone, prompt, head=head)
        )
    return classifiers
