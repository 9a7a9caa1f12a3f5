"""The members of an ensemble, loaded once to label many batches of texts: what `soft_labels` mixes, for any text.

Adapters of members on one backbone lie side by side in it, and each member switches its own on; so a process holds a
backbone once, however many members vote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from stages.ensembles.members import Predictor
from stages.ensembles.mixing import calibrate, mix, weigh
from stages.models.backbones import Backbone, BackboneConfig, load
from stages.models.encoders import EncoderConfig
from stages.models.precision import wants_bf16
from stages.patterns.cloze import ClozeClassifier
from stages.protocols import Recorder, SilentRecorder
from stages.tasks import Example, Task
from stages.texts.assets import identity
from stages.texts.logits import read_logits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stages.soft_labels import EnsembleConfig


class SubModelVoter(BaseModel, frozen=True, extra="forbid"):
    """A sub-model."""

    kind: Literal["pet"] = Field("pet", description="pet: a sub-model.")
    task: Task = Field(description="Labels, the pattern, label words if they are not searched for.")
    pattern: str = Field(description="Name of its pattern.")
    backbone: BackboneConfig = Field(description="Its language model.")
    words: int | None = Field(None, ge=0, description="Place of its words among those that were searched for.")


class ProbeVoter(BaseModel, frozen=True, extra="forbid"):
    """A probe."""

    kind: Literal["probe"] = Field("probe", description="probe: logistic regression on sentence embeddings.")
    encoder: EncoderConfig = Field(description="Its sentence encoder.")


Voter = Annotated[SubModelVoter | ProbeVoter, Field(discriminator="kind")]


@dataclass(slots=True)
class Shared:
    """A backbone that several members read, and the adapters in it by name; `wrapped`: PEFT's model around it."""

    backbone: Backbone
    wrapped: Any = None


@dataclass(slots=True)
class Adapted:
    """A sub-model whose adapter is one of several in its backbone."""

    classifier: ClozeClassifier
    shared: Shared
    adapter: str

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] logits, in the order of `examples`."""
        self.shared.wrapped.set_adapter(self.adapter)
        self.shared.backbone.freeze()
        return self.classifier.predict(examples, recorder, phase)


@dataclass(slots=True)
class Loader:
    """Loads members; those that can share a backbone do."""

    words: Sequence[Path] = ()
    _shared: dict[tuple[str, str, bool], Shared] = field(default_factory=dict)

    def load(self, voter: SubModelVoter | ProbeVoter, folder: Path) -> Predictor:
        """The member that lies in `folder`."""
        if isinstance(voter, ProbeVoter):
            from stages.models.classifier import TextClassifier

            probe = TextClassifier.load(folder / "model")
            probe.predicts_in_bf16 = wants_bf16(voter.encoder.precision)
            return probe
        from stages.patterns.verbalizers import found_words

        task = voter.task if voter.words is None else voter.task.with_words(found_words(self.words[voter.words]))
        tune = json.loads((folder / "submodel.json").read_text())["tune"]
        if tune == "full":
            own = voter.backbone.model_copy(update={"asset": str(folder / "model")})
            return ClozeClassifier.of(task, voter.pattern, load(own, frozen=True), voter.backbone)
        shared = self._backbone(voter.backbone, has_adapters=tune == "lora")
        prompt = None
        if tune == "prompt":
            from stages.prompts.peft_format import load_prompt

            prompt = load_prompt(folder / "prompt", shared.backbone)
        classifier = ClozeClassifier.of(task, voter.pattern, shared.backbone, voter.backbone, prompt)
        return Adapted(classifier, shared, _put_on(shared, folder / "adapter")) if tune == "lora" else classifier

    def _backbone(self, config: BackboneConfig, *, has_adapters: bool) -> Shared:
        key = (identity(config.asset), config.precision, has_adapters)
        if key not in self._shared:
            self._shared[key] = Shared(load(config, frozen=True))
        return self._shared[key]


def _put_on(shared: Shared, folder: Path) -> str:
    """Puts an adapter beside those that are there; returns its name."""
    from peft import PeftModel

    if shared.wrapped is None:
        shared.wrapped = PeftModel.from_pretrained(shared.backbone.model, folder, adapter_name="0")
        return "0"
    name = str(len(shared.wrapped.peft_config))
    shared.wrapped.load_adapter(folder, adapter_name=name)
    return name


@dataclass(slots=True)
class Ensemble:
    """All members, with what calibrates and weighs them."""

    members: Sequence[Predictor]
    references: Sequence[NDArray[np.float64] | None]
    """Of each member its [m, C] logits on what calibrates it, or None."""
    weights: NDArray[np.float64]
    config: EnsembleConfig

    @classmethod
    def load(
        cls,
        config: EnsembleConfig,
        labels: Sequence[str],
        voters: Sequence[SubModelVoter | ProbeVoter],
        groups: Sequence[str],
        folders: Sequence[Path],
        words: Sequence[Path],
    ) -> Ensemble:
        """Loads every member.

        Args:
            config: How votes are mixed.
            labels: [C] labels, in the order of the logits.
            voters: [M] members.
            groups: [M] kind of each member, for balanced weights.
            folders: [M] files of the members.
            words: Files of the verbalizer search, if words were searched for.
        """
        about = [json.loads((folder / "result.json").read_text()) for folder in folders]
        file = {"none": "", "contextual": "neutral_logits", "pile": "unlabeled_logits"}[config.calibration]
        loader = Loader(words)
        return cls(
            [loader.load(voter, folder) for voter, folder in zip(voters, folders, strict=True)],
            [read_logits(folder / f"{file}.jsonl", labels) if file else None for folder in folders],
            weigh(config.weights, [item["train_accuracy_before"] for item in about], groups),
            config,
        )

    def predict(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """[n, C] mixed logits, in the order of `examples`."""
        import numpy as np

        votes = []
        for member, reference in zip(self.members, self.references, strict=True):
            logits = member.predict(examples, SilentRecorder(), "")
            votes.append(logits if reference is None else calibrate(logits, reference))
        return mix(np.stack(votes), self.weights, self.config.mean, self.config.temperature)
