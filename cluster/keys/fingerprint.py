"""What makes two steps the same: a key of everything that can change the result, and its hash.

Paths, numbers of workers, devices and settings of logs are not part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.errors import FingerprintError
from cluster.keys.canonical import canonical, flatten, plain
from cluster.keys.source import CodeDigests
from cluster.step import Step

FORMAT = 1
"""Raised when the key or the layout of results changes; older results are then made anew."""


@dataclass(frozen=True, slots=True)
class Key:
    """A step's identity.

    `components` has dotted keys, such as `config.loop.steps`, `inputs.members.0`, `assets.backbone`,
    `code.stages.training.loop`; `fingerprint` is the hash of all of them.
    """

    fingerprint: str
    components: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One component that differs; None where it is absent."""

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.name.startswith("code."):
            return f"the code of {self.name[5:]} changed"
        if self.name.startswith(("inputs.", "assets.")):
            return f"{self.name} changed"
        return f"{self.name}: {_shown(self.before)} -> {_shown(self.after)}"


def fingerprints(steps: Mapping[str, Step]) -> dict[str, Key]:
    """The key of every step. `steps` is in the order of `cluster.step.graph`.

    Raises:
        FingerprintError: a config holds a value without a canonical form, or a function has no source file.
    """
    code = CodeDigests()
    keys: dict[str, Key] = {}
    for name, step in steps.items():
        keys[name] = _key(step, keys, code)
    return keys


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Components that differ: those of the config first, then inputs, assets, code."""
    order = ("config", "inputs", "assets", "code")
    # by canonical form, as the fingerprint has it: 16 and 16.0 are equal in Python
    names = [name for name in {**before, **after} if canonical(before.get(name)) != canonical(after.get(name))]
    names.sort(key=lambda name: order.index(top) if (top := name.partition(".")[0]) in order else -1)
    return tuple(Difference(name, before.get(name), after.get(name)) for name in names)


def _key(step: Step, keys: Mapping[str, Key], code: CodeDigests) -> Key:
    parts: dict[str, Any] = {
        "format": FORMAT,
        "step": step.name,
        "function": step.run,
        "config": plain(step.config, f"config of step {step.name}", identity=True),
        "inputs": {
            role: [keys[one.name].fingerprint for one in item]
            if isinstance(item, tuple)
            else keys[item.name].fingerprint
            for role, item in step.inputs.items()
        },
        "assets": _assets(step),
        "code": code.of(step.run.partition(":")[0]),
    }
    # Hashed nested, so that no config key with a dot in it can imitate another; kept flat, for people.
    components = flatten({key: value for key, value in parts.items() if key != "code"})
    components |= {f"code.{module}": digest for module, digest in parts["code"].items()}
    return Key(hashlib.sha256(canonical(parts).encode()).hexdigest(), components)


def _assets(step: Step) -> dict[str, str]:
    for role, digest in step.assets.items():
        if not isinstance(digest, str) or not digest:
            raise FingerprintError(
                f"asset {role} of step {step.name} has no digest but {digest!r}.",
                "Give the text that cluster.keys.digests.file_digest or tree_digest returns.",
            )
    return dict(step.assets)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
