"""Conversion of templates of promptsource into patterns."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from jinja2 import Template
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.init.prompt_templates import import_templates, templates_text
from stages.common.errors import InputError
from stages.common.patterns.config import Task

LABELS = ("rotten", "fresh")
FILE = """\
dataset: rotten_tomatoes
templates:
  1f: !Template
    answer_choices: negative ||| positive
    id: 1f
    jinja: '{{text}} Did the reviewer find this movie {{"good or bad"}}? ||| {{ answer_choices
      [label] }}'
    metadata: !TemplateMetadata
      choices_in_prompt: true
      languages: [en]
    name: Reviewer Opinion
    reference: ''
  2f: !Template
    answer_choices: bad ||| good
    jinja: "Is {this} {{answer_choices | join(' or ')}}, or not {{answer_choices[1]}}?\\n{{text}}\\n|||\\nIt is GOLD."
    name: 'Choices'
  3f: !Template
    answer_choices: bad ||| good
    jinja: "{% if label %}{{text}}{% endif %} ||| {{answer_choices[label]}}"
    name: with if
  4f: !Template
    answer_choices: null
    jinja: "Write a {{['bad', 'good'][label]}} review ||| {{text}}"
    name: generation
  5f: !Template
    answer_choices: a ||| b ||| c
    jinja: "{{text}} ||| {{answer_choices[label]}}"
    name: three
  6f: !Template
    answer_choices: bad ||| good
    jinja: "{{text | upper}} ||| {{answer_choices[label]}}"
    name: filtered
  7f: !Template
    answer_choices: "{{first}} ||| {{second}}"
    jinja: "{{text}} ||| {{answer_choices[label]}}"
    name: options
  8f: !Template
    answer_choices: bad ||| good
    jinja: "{{text}} ||| the answer"
    name: fixed
""".replace("GOLD", "{{answer_choices[label]}}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "templates.yaml").write_text(FILE)
    return tmp_path / "templates.yaml"


def test_templates_become_patterns_with_label_words(path: Path) -> None:
    imported = import_templates(path, LABELS, {"text": "review"})
    assert imported.patterns == {
        "reviewer_opinion": "{review} Did the reviewer find this movie good or bad? {mask}",
        "choices": "Is {{this}} bad or good, or not good?\n{review}\nIt is {mask}.",
    }
    assert imported.verbalizer["fresh"] == {"reviewer_opinion": ["positive"], "choices": ["good"]}
    assert {name: reason.split(" (")[0] for name, reason in imported.rejected.items()} == {
        "with if": "it has a statement",
        "generation": "it has no answer_choices, so its target is not a label word",
        "three": "it has 3 answer_choices, but there are 2 labels",
        "filtered": "it has an expression that is neither a field nor answer_choices",
        "options": "its answer_choices depend on the example",
        "fixed": "its target does not contain {{answer_choices[label]}} once",
    }


def test_a_filled_pattern_is_the_text_that_jinja_renders(path: Path) -> None:
    imported = import_templates(path, LABELS, names=["Choices"])
    jinja = yaml.safe_load(FILE.replace("!TemplateMetadata", "").replace("!Template", ""))["templates"]["2f"]["jinja"]
    before, answer = Template(jinja).render(text="A film.", label=1, answer_choices=["bad", "good"]).split("|||")
    filled = imported.patterns["choices"].replace("{mask}", "MASK").format(text="A film.").replace("MASK", "good")
    assert filled == f"{before.strip()}\n{answer.strip()}"


def test_text_is_a_part_of_a_task(path: Path) -> None:
    task = yaml.safe_load(templates_text(import_templates(path, LABELS)))["task"]
    assert Task(name="films", labels=LABELS, **task).words("choices") == {"rotten": ("bad",), "fresh": ("good",)}


@pytest.mark.parametrize(
    ("content", "labels", "names", "problem"),
    [
        (FILE, LABELS, ["nothing"], "no template 'nothing'"),
        (FILE, ("a", "b", "c", "d"), [], "none of the templates"),
        (FILE, LABELS, ["with if"], "with if: it has a statement"),
        ("templates: {a: {name: x}}", LABELS, [], "no templates with name and jinja"),
        ("[1", LABELS, [], "is not YAML"),
        ("a: !!python/object/apply:os.getcwd []", LABELS, [], "is not YAML"),
        (FILE.replace("{{text}} Did", "{{text} Did"), LABELS, ["Reviewer Opinion"], "not valid Jinja"),
    ],
)
def test_what_cannot_be_converted_raises(
    content: str, labels: tuple[str, ...], names: list[str], problem: str, path: Path
) -> None:
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        import_templates(path, labels, names=names)
    assert problem in str(caught.value)


def test_command_prints_patterns_and_names_what_it_left_out(path: Path) -> None:
    result = CliRunner().invoke(app, ["templates", str(path), "--label", "rotten", "--label", "fresh"])
    assert result.exit_code == 0
    assert list(yaml.safe_load(result.stdout)["task"]["patterns"]) == ["reviewer_opinion", "choices"]
    assert "with if: it has a statement" in result.stderr
