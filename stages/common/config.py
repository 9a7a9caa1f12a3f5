"""The base of all config models, references to assets, and types that several configs share.

This module imports pydantic only, so that a recipe can be read and planned without loading a model library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from stages.common.errors import InputError


class Config(BaseModel):
    """Base of all config models: frozen, rejects unknown keys; the text under a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def of(cls, settings: Config, **more: Any) -> Self:
        """Builds a config from the fields that `settings` has too, and from `more`, which has priority.

        A recipe section and the config of its stage share their settings. Fields that only one of them has, such as
        the resources of a section, are not copied.
        """
        shared = cls.model_fields.keys() & type(settings).model_fields.keys() - more.keys()
        return cls(**{name: getattr(settings, name) for name in shared}, **more)


SINGLE_LABEL: Literal["single_label_classification"] = "single_label_classification"
MULTI_LABEL: Literal["multi_label_classification"] = "multi_label_classification"
ORDINAL: Literal["ordinal_classification"] = "ordinal_classification"
ProblemType = Literal["single_label_classification", "multi_label_classification", "ordinal_classification"]
"""What an example has: one label, any number of labels, or one label of an order. The first two are named as
`problem_type` in transformers, for which the third is the first.
"""
ClassWeights = Literal["none", "balanced"]
"""How much the labeled examples of each label count in a loss."""
LabelBias = Literal["none", "macro_f1", "frequencies"]
"""What is added to the logits of each label (stages/common/training/label_bias.py)."""


class TextTaskConfig(Config):
    """Base of configs of stages that classify texts without a pattern."""

    labels: tuple[str, ...]
    """Labels of the task, in the order of the logits."""
    fields: tuple[str, ...]
    """Fields of an example. A text encoder reads the first as the text and joins the others to its pair."""
    problem_type: ProblemType = SINGLE_LABEL
    """What an example has: one label, any number of labels, or one label of an order."""
    class_weights: ClassWeights = "none"
    """How much the labeled examples of each label count."""


class SupervisedConfig(TextTaskConfig):
    """Base of configs of stages that train a classifier on labeled examples only."""

    label_bias: LabelBias = "none"
    """A bias per label: none, macro_f1 or frequencies (fitted to held-out logits). A member of an ensemble has none,
    because the ensemble has one.
    """


_ASSET = Field(json_schema_extra={"identity": False, "asset": True})
AssetRef = Annotated[str, _ASSET]
"""A reference of a model or data file. The content of its target is part of the key of a step, the reference is not."""
OptionalAssetRef = Annotated[str | None, _ASSET]


def asset_refs(config: Config, *, include: Callable[[Config], bool] = lambda model: True) -> dict[str, str]:
    """Returns the dotted key and the reference of every asset that a config names.

    Args:
        config: The config to walk, with all models, mappings and sequences in it.
        include: Returns False for models to skip, with everything in them.
    """
    return dict(_walk(config, "", include))


def _walk(value: Any, key: str, include: Callable[[Config], bool]) -> Iterator[tuple[str, str]]:
    if isinstance(value, Config):
        if not include(value):
            return
        items: Mapping[str, Any] = {name: getattr(value, name) for name in type(value).model_fields}
        fields = type(value).model_fields
    elif isinstance(value, Mapping):
        items, fields = value, {}
    elif isinstance(value, list | tuple):
        items, fields = {str(number): item for number, item in enumerate(value)}, {}
    else:
        return
    for name, item in items.items():
        inner = f"{key}.{name}" if key else name
        extra = fields[name].json_schema_extra if name in fields else None
        if isinstance(item, str) and isinstance(extra, dict) and extra.get("asset"):
            yield inner, item
        else:
            yield from _walk(item, inner, include)


def with_asset_refs(config: Config, refs: Mapping[str, str]) -> Config:
    """Returns a config with other references, given by their dotted keys as `asset_refs` returns them."""
    copied: Config = _replaced(config, "", refs)
    return copied


def _replaced(value: Any, key: str, refs: Mapping[str, str]) -> Any:
    def inner(name: object) -> str:
        return f"{key}.{name}" if key else str(name)

    if key in refs:
        return refs[key]
    if not any(name.startswith(f"{key}." if key else "") for name in refs):
        return value
    if isinstance(value, Config):
        changed = {name: _replaced(getattr(value, name), inner(name), refs) for name in type(value).model_fields}
        return value.model_copy(update={name: item for name, item in changed.items() if item != getattr(value, name)})
    if isinstance(value, Mapping):
        return {name: _replaced(item, inner(name), refs) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replaced(item, inner(number), refs) for number, item in enumerate(value))
    return value


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
"""A name that is also part of a step's name and a folder: lower case, digits, `_`, `.`, `-`."""


def _check_unique(labels: tuple[str, ...]) -> tuple[str, ...]:
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise InputError(f"the label {repeated[0]!r} is listed twice.", "Keep it once.")
    return labels


Labels = Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(_check_unique)]
"""At least two labels, each once."""
