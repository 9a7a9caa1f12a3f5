"""Which edits of the code rerun which steps: each one is made in a copy of the packages, and `smoke` is planned."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.dag.fewshot import EXCLUDED_MODULES, key_options
from pipelines.run.request import load_request
from tests.support.paths import ROOT

PACKAGES = ("pipelines", "stages", "cluster")
Keys = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Edit:
    """Replaces the first match of `pattern` in the files that `glob` matches."""

    glob: str
    pattern: str
    replacement: str

    def apply(self, folder: Path) -> tuple[str, str]:
        """Returns the file and its new content."""
        for path in sorted(folder.glob(self.glob)):
            content, count = re.subn(self.pattern, self.replacement, path.read_text(), count=1)
            if count:
                return path.relative_to(folder).as_posix(), content
        raise AssertionError(f"{self.pattern} does not occur in {self.glob}")


WITHOUT_EFFECT = {
    "color of a plot": Edit("stages/common/figures.py", r'color="[^"]+"', 'color="#123456"'),
    "label of a plot": Edit("stages/common/figures.py", r'(set_\w*(?:label|title)\(f?")', r"\1Changed "),
    "color of a chart": Edit("pipelines/palette.py", r'"#[0-9a-f]{6}"', '"#123456"'),
    "label of the leaderboard plot": Edit("pipelines/report/leaderboard_plot.py", r'(set_xlabel\(")', r"\1Changed "),
    "description of a field": Edit(
        "stages/distillation/config.py", r"= Field\(([^()\n]+)\)", r'= Field(\1, description="Changed.")'
    ),
    "docstring of an attribute": Edit("stages/distillation/config.py", r'(\n    \w+: .*\n    """)', r"\1Changed. "),
    "annotation of a function": Edit("stages/common/seeds.py", r"-> int:", "-> object:"),
    "annotation of a local variable": Edit(
        "stages/common/models/**/*.py", r"(\n        (?!self)\w+): [^=\n]+( = )", r"\1: object\2"
    ),
    "text in a raise statement": Edit("stages/common/training/*.py", r'(raise \w+Error\(\s*f?")', r"\1Changed: "),
    "text of a log_progress call": Edit(
        "stages/common/models/cloze/*.py", r"(\.log_progress\(.*phase=)[^,)\n]+", r'\1"changed"'
    ),
    "timeout of a download": Edit("stages/common/assets/*.py", r"(\w*TIMEOUT_S = )[\d.]+", r"\g<1>77"),
    "logging interval of a stage": Edit("stages/common/progress.py", r"(\w+_S = )[\d.]+", r"\g<1>77"),
    "logging interval of a worker": Edit("cluster/tracking/recorder.py", r"(SEND\w*_S = )[\d.]+", r"\g<1>77"),
    "size of a measurement of speed": Edit("stages/common/training/throughput.py", r"(MAX_TEXTS = )\d+", r"\g<1>7"),
    "comment": Edit("stages/common/seeds.py", r"\n\n\n", "\n\n\n# Changed.\n"),
}
PATTERN_STEPS = ("ppt", "pet", "zero_shot", "prompts", "soft_labels", "distill", "report")
"""Steps that read patterns, and their descendants."""
WITH_EFFECT = {
    "loss": (
        Edit("stages/distillation/*.py", r'reduction="batchmean"', 'reduction="sum"'),
        ("distill", "report"),
    ),
    "filter of a pattern": (
        Edit("stages/common/patterns/syntax.py", r'("rstrip_punct": lambda text: text)\.rstrip', r"\1.strip"),
        PATTERN_STEPS,
    ),
    "default value": (
        Edit("stages/distillation/config.py", r"(temperature: float = Field\()[\d.]+", r"\g<1>3.5"),
        ("distill", "report"),
    ),
    "helper that the stage reaches through two modules": (
        Edit("stages/common/models/cloze/label_word_scores.py", r"\n    return (.+)\n", r"\n    return (\1, 1)[0]\n"),
        PATTERN_STEPS,
    ),
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages."""
    folder = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def edited(copied: Path) -> dict[str, tuple[str, Keys]]:
    """Edit -> the edited module, and the keys of all steps; "" is no edit."""
    edits = {name: edit.apply(copied) for name, edit in WITHOUT_EFFECT.items()}
    edits |= {name: edit.apply(copied) for name, (edit, _) in WITH_EFFECT.items()}
    done = subprocess.run(
        [sys.executable, ROOT / "tests/support/programs/print_fingerprints.py", copied, "smoke"],
        input=json.dumps([None, *edits.values()]),
        capture_output=True,
        text=True,
        check=True,
        cwd=copied,
        env={"PATH": "/usr/bin:/bin", "HOME": str(copied)},
    )
    modules = ["", *(path.removesuffix(".py").replace("/", ".") for path, _ in edits.values())]
    return dict(zip(["", *edits], zip(modules, json.loads(done.stdout), strict=True), strict=True))


def rerun(edited: dict[str, tuple[str, Keys]], edit: str) -> set[str]:
    """Returns the steps whose fingerprints the edit changes."""
    before, after = edited[""][1], edited[edit][1]
    assert before.keys() == after.keys()
    return {name for name in before if before[name]["fingerprint"] != after[name]["fingerprint"]}


@pytest.mark.parametrize("edit", WITHOUT_EFFECT)
def test_edit_without_effect_reruns_nothing(edited: dict[str, tuple[str, Keys]], edit: str) -> None:
    assert rerun(edited, edit) == set()
    module, keys = edited[edit]
    is_reached = any(module in str(key["modules"]) for key in keys.values())
    is_excluded = module.startswith(("cluster.", *EXCLUDED_MODULES))
    assert is_reached is not is_excluded, f"{module} is not a module of these steps, so the edit shows nothing"


@pytest.mark.parametrize("edit", WITH_EFFECT)
def test_edit_with_effect_reruns_exactly_the_steps_concerned(edited: dict[str, tuple[str, Keys]], edit: str) -> None:
    steps = edited[""][1]
    assert rerun(edited, edit) == {name for name in steps if name.partition("/")[0] in WITH_EFFECT[edit][1]}


def test_indirect_helper_is_reached_through_two_modules(copied: Path) -> None:
    assert "label_word_scores" not in (copied / "stages/pet/stage.py").read_text()
    assert "label_word_scores" in (copied / "stages/common/models/cloze/classifier.py").read_text()


def test_versions_are_part_of_the_key_only_on_request(tmp_path: Path) -> None:
    options = [
        key_options(load_request("smoke", overrides, tmp_path).config).has_versions
        for overrides in ([], ["resources.versions_in_key=true"])
    ]
    assert options == [False, True]
