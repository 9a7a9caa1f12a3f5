"""Files that steps write for later steps and for the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.common.data.step_outputs import read_correct, write_logits
from stages.common.examples import Example


def test_correct_examples_have_the_largest_logit_at_the_gold_label(tmp_path: Path) -> None:
    examples = [Example("a", {}, "fresh"), Example("b", {}, "fresh"), Example("c", {}, "rotten")]
    logits = np.array([[-2.0, -1.0], [0.5, 0.25], [3.0, -4.0]])
    write_logits(tmp_path / "x.jsonl", examples, logits, ("rotten", "fresh"))
    assert read_correct(tmp_path / "x.jsonl") == {"a": True, "b": False, "c": True}
