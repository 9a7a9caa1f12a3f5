"""Small backbones of each family with tokenizer and random weights, and a task for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from stages.common.examples import Example
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Task

FAMILIES = ("bert", "roberta", "llama", "gpt2", "t5")

SENTENCES = (
    "The film is a warm and clever story about two sisters, and it was great.",
    "A dull plot, a terrible script and a hero without a face: it was bad.",
    "Critics praised the music; the audience praised the food in the lobby.",
    "Sentiment: positive. In summary, the film is good. All in all, it was great.",
    "Sentiment: negative. In summary, the film is bad. All in all, it was terrible.",
    "Review: the acting is fine, the ending is not. Is it true? yes, no or maybe.",
    "Adjacent: yes. Adjacent: no. Adjacent: maybe. The second half drags on and on.",
    "News: markets rose, the weather turned, and the team lost again.",
)
"""Text from which the vocabularies are built."""

CASED = sorted({word.strip(".,:;?") for sentence in SENTENCES for word in sentence.split()} | {"It"})
WORDS = sorted({word.lower() for word in CASED})
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;?!'\"()-"


def bert_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """WordPiece in lower case; [CLS] a [SEP] b [SEP]; the second segment has type 1."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *words]
    ids = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def _byte_level(specials: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        min_frequency=1,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, *(f" {word}" for word in CASED for _ in range(9))], trainer)
    return tokenizer


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE; <s> a </s></s> b </s>; no segments; the mask takes the space before it, as RoBERTa's does."""
    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    ids = tokenizer.get_vocab()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", unk_token="<unk>", pad_token="<pad>",
        mask_token=AddedToken("<mask>", lstrip=True),
    )  # fmt: skip


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts <s> before a text, and has a padding token of its own."""
    tokenizer = _byte_level(["<s>", "</s>", "<pad>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip


def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without anything around a text, and without a padding token."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(["<|endoftext|>"]),
        model_input_names=["input_ids", "attention_mask"],
        bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>",
    )  # fmt: skip


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Unigram with ▁ before words and </s> after a text; two sentinels."""
    capitals = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(letter, -9.0) for letter in LETTERS + capitals + "<>_"] + [(f"▁{word}", -5.0) for word in CASED]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<extra_id_0>", "<extra_id_1>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=["<extra_id_0>", "<extra_id_1>"],
    )  # fmt: skip


def small_model(name: str, vocabulary: int, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Returns a model of two layers with random weights. transformers has no types."""
    small = {"vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if name == "bert":
        return BertForMaskedLM(BertConfig(**small, intermediate_size=64, max_position_embeddings=160))
    if name == "roberta":
        ends = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        settings = {"intermediate_size": 64, "max_position_embeddings": 160, "type_vocab_size": 1, **ends}
        return RobertaForMaskedLM(RobertaConfig(**small, **settings))
    if name == "llama":
        ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0, "eos_token_id": 1}
        settings = {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 160, **ends}
        return LlamaForCausalLM(LlamaConfig(**small, **settings))
    if name == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160}
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **shape, bos_token_id=0, eos_token_id=0))
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **shape, **ends))


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bert": bert_tokenizer,
    "roberta": roberta_tokenizer,
    "llama": llama_tokenizer,
    "gpt2": gpt2_tokenizer,
    "t5": t5_tokenizer,
}


def backbone_config(folder: Path, max_length: int = 64) -> BackboneConfig:
    """Returns the config of a small model, in float32 on every CPU."""
    return BackboneConfig(asset=str(folder), max_length=max_length, precision="fp32")


def film_task(family: str) -> Task:
    """Returns a task with two patterns for a model."""
    ends = {
        "review": "Review: {text}\nSentiment:{mask}",
        "summary": "{text} In summary, the film is{mask}",
    }
    inside = {
        "review": "Review: {text} It was {mask}.",
        "summary": "{mask} News: {text}",
    }
    return Task(
        name="films",
        labels=("rotten", "fresh"),
        patterns=ends if family in ("llama", "gpt2") else inside,
        verbalizer={"rotten": ["bad", "terrible"], "fresh": ["good", "great"]},
    )


GOOD = ("warm", "clever", "fine")
POOR = ("dull", "bad", "terrible")


def film_example(number: int, label: str | None = None) -> Example:
    """Returns an invented review. Its words follow from `label`, or from `number` without a label."""
    words = (GOOD if label == "fresh" else POOR) if label else GOOD + POOR
    first, second = words[number % len(words)], words[(number // len(words)) % len(words)]
    return Example(f"film-{number}", {"text": f"The plot {number} was {first} and the script {second}."}, label)


def film_examples(count: int, start: int = 0) -> list[Example]:
    """Labeled reviews with alternating labels."""
    return [film_example(start + number, ("rotten", "fresh")[number % 2]) for number in range(count)]


def write_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
