"""Reads the templates of relations, as in LAMA (Petroni et al., EMNLP 2019): "[X] was born in [Y].". Loads no model
library, so that a plan can check them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from stages.common.assets.cache import resolve
from stages.common.errors import DataError
from stages.knowledge_probing.config import ProbingSettings, check_template


def read_templates(settings: ProbingSettings) -> dict[str, str]:
    """Returns relation -> template.

    Raises:
        DataError: a line of the file is not JSON, or lacks a key.
        InputError: a template lacks [X] or [Y].
    """
    if settings.relations is None:
        return dict(settings.templates)
    path = resolve(settings.relations)
    templates: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        name, text = _row(line, where)
        check_template(name, text, where=where)
        templates[name] = text
    if not templates:
        raise DataError(f"{path} has no relation.", 'Write lines such as {"relation": "born", "template": "..."}.')
    return templates


def _row(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        name, text = row["relation"], row["template"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: the line has no relation and template.",
            'Write JSON: {"relation": "born", "template": "[X] was born in [Y]."}.',
        ) from error
    if not (isinstance(name, str) and isinstance(text, str)):
        raise DataError(f"{where}: relation and template are not texts.", "Write them as texts.")
    return name, text


def check_relations(templates: Mapping[str, str], relations: Collection[str]) -> None:
    """Checks that all test facts have a template.

    Raises:
        DataError: a relation has none.
    """
    if missing := sorted(set(relations) - templates.keys()):
        raise DataError(
            f"the test set has facts of the relation {missing[0]!r}, which has no template.",
            "Add a template, or skip its facts with filter.",
        )
