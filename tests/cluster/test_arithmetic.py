"""The engine's own arithmetic has a version, which must be raised with it."""

import ast
import hashlib
from importlib.util import find_spec
from pathlib import Path

from cluster import arithmetic
from cluster.steps.code_digests import normal_form

RECORDED = (1, "a058ab076698e570")
"""The version, and the digest of its modules."""


def test_changed_arithmetic_has_a_new_version() -> None:
    text = ""
    for module in arithmetic.MODULES:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None
        text += normal_form(ast.parse(Path(spec.origin).read_text()))
    current = (arithmetic.VERSION, hashlib.sha256(text.encode()).hexdigest()[:16])
    assert current == RECORDED, (
        "The code of the engine's arithmetic changed. If a step may now have another result, raise "
        f"cluster.arithmetic.VERSION. Then record ({arithmetic.VERSION}, {current[1]!r}) here."
    )
