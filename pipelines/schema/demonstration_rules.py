"""The rule about demonstrations of sub-models. Raises `InputError` with the dotted key."""

from __future__ import annotations

from pipelines.schema.config import PipelineConfig
from stages.common.errors import InputError
from stages.common.models.cloze.config import MIN_DEMONSTRATIONS


def check_demonstrations(config: PipelineConfig) -> None:
    """Sub-models with demonstrations have enough labeled examples of each label, also in each fold."""
    for section_key, section in config.pet_sections.items():
        if section.demonstrations is None:
            continue
        key = f"{section_key}.demonstrations"
        if config.task.options:
            raise InputError("demonstrations do not support multiple choice.", "Remove them.", key=key)
        if not config.has_labels:
            raise InputError(
                "demonstrations are labeled examples, but data.shots is 0 and data.train is not set.",
                "Add labeled data, or remove demonstrations.",
                key=key,
            )
        if config.data.train is not None:
            continue  # the number per label is in the file; the stage counts it
        num_folds = section.num_folds or 0
        of_curve = config.learning_curve.shots if config.learning_curve and section_key == "pet" else ()
        for shots in (config.data.shots, *of_curve):
            in_fold = shots - -(-shots // min(num_folds, shots)) if num_folds and shots > 1 else shots
            if in_fold < MIN_DEMONSTRATIONS:
                folds = f" {in_fold} of them outside of a fold," if in_fold < shots else ""
                raise InputError(
                    f"{shots} labeled examples per label are too few for demonstrations:{folds} where "
                    f"{MIN_DEMONSTRATIONS} are needed, because a text never is its own demonstration.",
                    "Raise data.shots, change num_folds, or remove demonstrations.",
                    key=key,
                )
