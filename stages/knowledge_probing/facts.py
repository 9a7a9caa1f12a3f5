"""Reads facts from the files of the split stage of text generation, whose inputs are a subject and a relation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stages.common.examples import Example
from stages.knowledge_probing.config import RELATION, SUBJECT


@dataclass(frozen=True, slots=True)
class Fact:
    """A subject, a relation, and the right answers. The first one is the target in training."""

    uid: str
    subject: str
    relation: str
    answers: tuple[str, ...]

    @property
    def example(self) -> Example:
        """The fact without its answers."""
        return Example(self.uid, {SUBJECT: self.subject, RELATION: self.relation})


def load_facts(path: Path) -> list[Fact]:
    """Returns the facts of a set."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [Fact(row["uid"], row["fields"][SUBJECT], row["fields"][RELATION], tuple(row["references"])) for row in rows]
