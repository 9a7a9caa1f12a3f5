"""Every prompt method in a small size, and patterns with soft blocks for each family."""

from __future__ import annotations

from stages.common.models.backbones.config import LoraConfig
from stages.common.patterns.config import Task
from stages.common.prompts.config import InitConfig, PromptConfig
from tests.support.small_models import film_task

METHODS: dict[str, PromptConfig] = {
    "prompt_tuning": PromptConfig(num_virtual_tokens=5),
    "p_tuning_lstm": PromptConfig(method="p_tuning", num_virtual_tokens=5, encoder_hidden_size=16),
    "p_tuning_mlp": PromptConfig(
        method="p_tuning", num_virtual_tokens=5, encoder_hidden_size=16, reparameterization="mlp"
    ),
    "prefix_tuning": PromptConfig(method="prefix_tuning", num_virtual_tokens=5, encoder_hidden_size=16),
    "p_tuning_v2": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5),
    "p_tuning_v2_mlp": PromptConfig(
        method="p_tuning_v2", num_virtual_tokens=5, encoder_hidden_size=16, reparameterization="mlp"
    ),
    "low_rank": PromptConfig(num_virtual_tokens=5, rank=2),
    "low_rank_deep": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5, rank=2),
    "gated": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5, gates=True, noise=0.1),
    "idpg": PromptConfig(method="idpg", num_virtual_tokens=5, bottleneck_size=8),
    "idpg_embeddings": PromptConfig(
        method="idpg", num_virtual_tokens=5, bottleneck_size=8, text_encoder="embeddings", init=InitConfig(kind="mean")
    ),
    "with_lora": PromptConfig(num_virtual_tokens=5, lora=LoraConfig(rank=2)),
    "deep_with_lora": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5, lora=LoraConfig(rank=2)),
}
SOFT = {
    "llama": "{soft:2}Review: {text}\n{soft:3:the film}{mask}",
    "gpt2": "{soft:2}Review: {text}\n{soft:3:the film}{mask}",
    "bert": "{soft:2}Review: {text} {soft:3:the film} {mask}.",
    "roberta": "{soft:2}Review: {text} {soft:3:the film} {mask}.",
    "t5": "{soft:2}Review: {text} {soft:3:the film} {mask}.",
}


def soft_task(name: str) -> Task:
    """Returns the task of film reviews with soft blocks in its pattern, for a family."""
    return film_task(name).only("review").model_copy(update={"patterns": {"review": SOFT[name]}})
