"""Whether labels say how two texts relate."""

from __future__ import annotations

from pipelines.init.relations import labels_relate_texts
from stages.common.config import MULTI_LABEL
from stages.common.examples import Example
from stages.common.patterns.config import Task
from stages.common.seeds import python_rng

TOPICS = {
    "sports": ("match", "goal", "team", "coach", "league"),
    "markets": ("shares", "bank", "profit", "bonds", "trade"),
}
PATTERN = {"same": "{title}\n{body}\nTopic:{mask}"}


def text(topic: str, number: int, part: str) -> str:
    return " ".join(python_rng(number, part, topic).choices(TOPICS[topic], k=6))


def test_words_tell_what_two_texts_are_about() -> None:
    topics = list(TOPICS) * 16
    examples = [
        Example(str(number), {"title": text(topic, number, "title"), "body": text(topic, number, "body")}, topic)
        for number, topic in enumerate(topics)
    ]
    assert not labels_relate_texts(Task(name="news", labels=tuple(TOPICS), patterns=PATTERN), examples, "word")


def test_words_do_not_tell_how_two_texts_relate() -> None:
    """Both texts are about one topic, or about two topics, and each topic is equally frequent with each label."""
    examples = []
    for number in range(32):
        first, second = [tuple(TOPICS)[number % 2], tuple(TOPICS)[(number // 2) % 2]]
        fields = {"title": text(first, number, "title"), "body": text(second, number, "body")}
        examples.append(Example(str(number), fields, "same" if first == second else "different"))
    task = Task(name="pairs", labels=("same", "different"), patterns=PATTERN)
    assert labels_relate_texts(task, examples, "word")
    one_text = Task(name="pairs", labels=("same", "different"), patterns={"one": "{title}{mask}"})
    assert not labels_relate_texts(one_text, examples, "word")
    several = Task(name="pairs", labels=("same", "different"), patterns=PATTERN, problem_type=MULTI_LABEL)
    assert not labels_relate_texts(several, examples, "word")
