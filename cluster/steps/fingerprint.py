"""Computes the key and fingerprint of every step of a graph.

The key covers everything that can change a result: config, inputs, assets and code. Paths, numbers of workers, devices
and log settings are not part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.canonical_json import canonical, flatten, plain
from cluster.errors import FingerprintError
from cluster.steps.code_digests import CodeDigests
from cluster.steps.step import Step
from cluster.store.manifest import FORMAT, Key


def fingerprints(steps: Mapping[str, Step]) -> dict[str, Key]:
    """The key of every step. `steps` is in the order of `cluster.steps.step.graph`.

    Raises:
        FingerprintError: a config holds a value without a canonical form, or a function has no source file.
    """
    code = CodeDigests()
    keys: dict[str, Key] = {}
    for name, step in steps.items():
        keys[name] = _key(step, keys, code)
    return keys


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
                "Give the text that cluster.store.files.file_digest or tree_digest returns.",
            )
    return dict(step.assets)


def config_params(components: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The config among a key's components, as parameters: `config.loop.steps` becomes `loop.steps`."""
    return {name.removeprefix("config."): value for name, value in components if name.startswith("config.")}
