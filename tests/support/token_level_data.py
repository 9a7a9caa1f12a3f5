"""Tasks, examples and prompts for tests of token-level stages. Small models learn them in a few steps."""

from __future__ import annotations

from stages.common.models.backbones.config import LoraConfig
from stages.common.prompts.config import PromptConfig
from stages.common.seeds import python_rng
from stages.token_level.config import QuestionAnsweringTask, TokenClassificationTask
from stages.token_level.examples import Answer, Question, TaggedText

ENTITIES = TokenClassificationTask(name="things", labels=("O", "B-WORK", "I-WORK", "B-WHO"))
ANSWERS = QuestionAnsweringTask(name="answers", max_answer_tokens=6, overlap=8)
THINGS = {"film": "B-WORK", "script": "B-WORK", "Critics": "B-WHO", "audience": "B-WHO", "hero": "B-WHO"}
PRAISE = ("great", "good", "fine", "warm")
WORDS = ("plot", "true", "two", "music", "second", "half", "weather", "dull")
METHODS = {
    "prompt_tuning": PromptConfig(num_virtual_tokens=3),
    "p_tuning": PromptConfig(method="p_tuning", num_virtual_tokens=3, encoder_hidden_size=16),
    "p_tuning_v2": PromptConfig(method="p_tuning_v2", num_virtual_tokens=3),
    "prefix_tuning": PromptConfig(method="prefix_tuning", num_virtual_tokens=3, encoder_hidden_size=16),
    "low_rank": PromptConfig(num_virtual_tokens=3, rank=2),
    "with_lora": PromptConfig(num_virtual_tokens=3, lora=LoraConfig(rank=2)),
}


def tagged_texts(count: int, seed: int) -> list[TaggedText]:
    """Returns texts of known words, some of which are entities."""
    rng = python_rng(seed, "tagged")
    texts = []
    for number in range(count):
        words = [rng.choice([*THINGS, *WORDS[:5]]) for _ in range(rng.randint(3, 9))]
        texts.append(TaggedText(f"t{number}", tuple(words), tuple(THINGS.get(word, "O") for word in words)))
    return texts


def questions(count: int, seed: int) -> list[Question]:
    """Returns questions whose answer is the only word of praise in the context."""
    rng = python_rng(seed, "asked")
    examples = []
    for number in range(count):
        words = [rng.choice(WORDS) for _ in range(rng.randint(4, 10))]
        index = rng.randrange(len(words))
        words[index] = rng.choice(PRAISE)
        start = len(" ".join([*words[:index], ""]))
        examples.append(Question(f"q{number}", "Is it true?", " ".join(words), (Answer(words[index], start),)))
    return examples
