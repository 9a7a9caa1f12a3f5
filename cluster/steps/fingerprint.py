"""Computes the key and fingerprint of every step of a graph.

The key covers everything that can change a result: config, inputs, assets and code. Paths, numbers of workers, devices
and log settings are not part of it. Versions of libraries are part of it only on request.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from cluster import arithmetic
from cluster.canonical_json import canonical, flatten, plain
from cluster.errors import FingerprintError
from cluster.steps.code_digests import CodeDigests, versions
from cluster.steps.step import Step
from cluster.store.manifest import FORMAT, Key

_IN_LIST = re.compile(r"\.\d+\.")
"""The name of a parameter of an object in a list, such as `measured.0.kind`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyOptions:
    """Which code and versions are part of the keys.

    Args:
        excluded_modules: Modules and packages outside the code digests, because they cannot change a result.
        has_versions: Make the versions of Python and of the libraries part of every key.
    """

    excluded_modules: tuple[str, ...] = ()
    has_versions: bool = False


def fingerprints(steps: Mapping[str, Step], options: KeyOptions | None = None) -> dict[str, Key]:
    """Returns the key of every step.

    Args:
        steps: In the order of `cluster.steps.step.graph`.
        options: Which code and versions count.

    Raises:
        FingerprintError: a config holds a value without a canonical form, or a function has no source file.
    """
    options = options or KeyOptions()
    code = CodeDigests(options.excluded_modules)
    keys: dict[str, Key] = {}
    for name, step in steps.items():
        keys[name] = _key(step, keys, code_components(step.run, options, code))
    return keys


def code_components(run: str, options: KeyOptions, digests: CodeDigests | None = None) -> dict[str, str]:
    """Returns the components of a key that depend on what is installed: `code.<module>`, `versions.<library>`.

    The engine has a version (`cluster.arithmetic`) instead of digests of its modules.

    Args:
        run: The function of a step, as `module:function`.
        options: Which code and versions count.
        digests: Digests to reuse.

    Raises:
        FingerprintError: the function has no source file.
    """
    digests = digests or CodeDigests(options.excluded_modules)
    components = {f"code.{module}": digest for module, digest in digests.of(run.partition(":")[0]).items()}
    components[arithmetic.COMPONENT] = f"version {arithmetic.VERSION}"
    if options.has_versions:
        components |= {f"versions.{library}": number for library, number in versions().items()}
    return components


def _key(step: Step, keys: Mapping[str, Key], code: Mapping[str, str]) -> Key:
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
    }
    # The hash is of the nested form, so no config key with a dot in it can imitate another component.
    nested = canonical({**parts, "code": dict(code)})
    return Key(hashlib.sha256(nested.encode()).hexdigest(), flatten(parts) | dict(code))


def _assets(step: Step) -> dict[str, str]:
    for role, digest in step.assets.items():
        if not isinstance(digest, str) or not digest:
            raise FingerprintError(
                f"asset {role} of step {step.name} has no digest but {digest!r}.",
                "Pass the text that cluster.store.files.file_digest returns.",
            )
    return dict(step.assets)


def config_params(components: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the config among the components of a key, as parameters: `config.loop.steps` becomes `loop.steps`."""
    return {name.removeprefix("config."): value for name, value in components if name.startswith("config.")}


def changed_params(config: BaseModel, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a config that differ from its defaults, without those of objects in lists."""
    changed = flatten(config.model_dump(mode="json", exclude_defaults=True))
    return {name: value for name, value in params.items() if name in changed and not _IN_LIST.search(name)}
