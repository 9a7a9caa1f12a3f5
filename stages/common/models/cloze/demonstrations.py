"""In-context learning: labeled examples before the text, their words filled in, without training.

Brown et al., "Language Models are Few-Shot Learners", NeurIPS 2020. The original PET calls it priming.
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.seeds import python_rng

SEPARATOR = "\n\n"
"""Stands between demonstrations."""


def sample_demonstrations(train_set: Sequence[Example], labels: Sequence[str], shots: int, seed: int) -> list[Example]:
    """Draws `shots` labelled examples a class, in shuffled order.

    Raises:
        InputError: a class has fewer.
    """
    rng = python_rng(seed, "demonstrations")
    chosen: list[Example] = []
    for label in labels:
        mine = [item for item in train_set if item.label == label]
        if len(mine) < shots:
            raise InputError(
                f"{shots} demonstrations a class were asked for, but {label!r} has {len(mine)} labelled examples.",
                "Lower priming.shots, or label more.",
                key="priming.shots",
            )
        chosen += rng.sample(mine, shots)
    rng.shuffle(chosen)
    return chosen


def prepend_demonstrations(classifier: ClozeClassifier, demonstrations: Sequence[Example]) -> None:
    """Puts demonstrations before every text that `classifier` scores.

    Raises:
        InputError: the backbone has too few positions for them.
    """
    tokenizer, encoder = classifier.backbone.tokenizer, classifier.encoder
    separator = tuple(tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"])
    first_words = {
        label: words[0] for label, words in zip(classifier.task.labels, classifier.verbalizer.words, strict=True)
    }
    num_before = len(encoder.specials.before)
    prefix: tuple[int, ...] = ()
    for example in demonstrations:
        encoded = encoder(example)
        word = first_words[example.label or ""]
        at = encoded.mask_position if classifier.backbone.family != "causal" else len(encoded.ids)
        after = encoded.ids[at + 1 : len(encoded.ids) - len(encoder.specials.after_single)]
        prefix += encoded.ids[num_before:at] + word + (encoded.suffix or after) + separator
    room = classifier.backbone.max_positions
    if room is not None and len(prefix) + encoder.max_length > room:
        raise InputError(
            f"{len(demonstrations)} demonstrations have {len(prefix)} tokens; with {encoder.max_length} of the text "
            f"they are more than the {room} positions of the backbone.",
            "Lower priming.shots or backbone.max_length.",
            key="priming.shots",
        )
    encoder.prefix = prefix
