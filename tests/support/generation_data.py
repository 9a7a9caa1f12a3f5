"""Small generation tasks: tables of two columns and the sentences that say the same."""

from __future__ import annotations

from stages.common.models.backbones.config import LoraConfig
from stages.common.prompts.config import PromptConfig
from stages.generation.config import DecodingConfig, GenerationTask
from stages.generation.examples import GenerationExample

FAMILIES = ("llama", "gpt2", "t5")
"""Causal models with and without a padding token, and a seq2seq model."""
METHODS: dict[str, PromptConfig] = {
    "prompt_tuning": PromptConfig(num_virtual_tokens=5),
    "p_tuning": PromptConfig(method="p_tuning", num_virtual_tokens=5, encoder_hidden_size=16),
    "prefix_tuning": PromptConfig(method="prefix_tuning", num_virtual_tokens=5, encoder_hidden_size=32),
    "p_tuning_v2": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5),
    "idpg": PromptConfig(method="idpg", num_virtual_tokens=5, bottleneck_size=16),
    "with_lora": PromptConfig(num_virtual_tokens=5, lora=LoraConfig(rank=4)),
    "lora": PromptConfig(method="lora", lora=LoraConfig(rank=4)),
    "deep_with_lora": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5, lora=LoraConfig(rank=4)),
}
TABLES = GenerationTask(name="tables", pattern="name: {name}, food: {food}\nText: ", max_new_tokens=24)
BEAM = DecodingConfig(strategy="beam", num_beams=3)
SAMPLE = DecodingConfig(strategy="sample", temperature=0.8, top_p=0.9, seed=3)

NAMES = ("Sentiment", "Critics", "News", "The audience", "A team", "Review", "The half", "It")
FOODS = ("great", "bad", "warm and clever", "fine")


def tables(count: int, start: int = 0) -> list[GenerationExample]:
    """Tables of different lengths, each with a sentence that follows from it."""
    examples = []
    for number in range(start, start + count):
        name, food = NAMES[number % len(NAMES)], FOODS[(number // 3) % len(FOODS)]
        examples.append(
            GenerationExample(f"table-{number}", {"name": name, "food": food}, (f"{name} praised the {food} food.",))
        )
    return examples
