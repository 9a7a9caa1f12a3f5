"""Rules about chain of thought: bad input is refused before anything runs."""

from __future__ import annotations

import pytest

from pipelines.schema.chain_of_thought_rules import answers_of
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError

DEMONSTRATION = "{fields: {text: A warm film.}, rationale: Warm is praise. The answer is fresh.}"


def section(**settings: str) -> str:
    """Returns an override with a valid section, in which `settings` replace keys."""
    values = {"question": '"{text} Is it good?"', "methods": "{zero_shot: {}}", **settings}
    return f"chain_of_thought={{{', '.join(f'{key}: {value}' for key, value in values.items())}}}"


def read(*overrides: str) -> PipelineConfig:
    return read_recipe(find_recipe("smoke"), PipelineConfig, overrides)


@pytest.mark.parametrize(
    ("settings", "key", "problem"),
    [
        ({"question": '"{body} Is it good?"'}, "question", "the field 'body', which no pattern"),
        ({"question": '"{text} It was {mask}"'}, "question", "a question has no {mask}"),
        ({"answer_pattern": "(fresh|rotten)"}, "answer_pattern", "has no group 'answer'"),
        ({"methods": "{}"}, "methods", "at least 1"),
        ({"methods": "{vote: {num_rationales: 5}}"}, "methods.vote.temperature", "without sampling all are equal"),
        ({"methods": "{few: {num_demonstrations: 1}}"}, "methods.few.num_demonstrations", "but there are 0"),
        (
            {"demonstrations": "[{fields: {text: A film.}, rationale: It is fresh.}]"},
            "demonstrations.0.rationale",
            "no answer can be extracted",
        ),
        (
            {
                "demonstrations": '[{fields: {text: A film.}, rationale: "Warm.\\n\\nThe answer is fresh."}]',
                "methods": "{few: {num_demonstrations: 1}}",
            },
            "demonstrations.0.rationale",
            "where the method few ends each rationale",
        ),
        ({"answers": "{rotten: [bad]}"}, "answers", "no word names the label 'fresh'"),
        ({"answers": "{rotten: [bad], fresh: [' ']}"}, "answers", "no word names the label 'fresh'"),
        ({"answers": "{rotten: [bad], fresh: [good], stale: [old]}"}, "answers", "'stale' is not in labels"),
        ({"answers": "{rotten: [bad, Fine], fresh: [fine]}"}, "answers", "names both 'rotten' and 'fresh'"),
        ({"strategy": "zero3", "workers": "2"}, "strategy", "zero3 partitions the weights"),
        ({"strategy": "fsdp", "workers": "2"}, "strategy", "fsdp partitions the weights"),
    ],
)
def test_bad_sections_are_errors(settings: dict[str, str], key: str, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(section(**settings))
    assert problem in str(caught.value)
    assert caught.value.key == f"chain_of_thought.{key}"
    assert caught.value.remedy


def test_chain_of_thought_needs_a_backbone() -> None:
    words = "members.words={kind: tfidf}"
    with pytest.raises(RecipeError, match="chain_of_thought uses a language model") as caught:
        read("backbone=null", "pet=null", "ppt=null", "prompts=null", words, section())
    assert caught.value.key == "backbone"


def test_a_label_is_named_by_itself_and_its_words() -> None:
    config = read(section())
    assert config.chain_of_thought is not None
    assert answers_of(config.chain_of_thought, config.task) == {
        "rotten": ("rotten", "bad", "terrible", "no"),
        "fresh": ("fresh", "good", "great", "yes"),
    }
    own = read(section(answers="{rotten: [negative], fresh: [positive]}"))
    assert own.chain_of_thought is not None
    assert answers_of(own.chain_of_thought, own.task) == {"rotten": ("negative",), "fresh": ("positive",)}


def test_demonstrations_with_answers_are_valid() -> None:
    own = read(section(demonstrations=f"[{DEMONSTRATION}]", methods="{few: {num_demonstrations: 1}}")).chain_of_thought
    assert own is not None and len(own.demonstrations) == own.methods["few"].num_demonstrations == 1
