"""In-context learning: labeled examples before the text, their words filled in, without training.

Brown et al., "Language Models are Few-Shot Learners", NeurIPS 2020. The original PET calls it priming.
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.common.errors import InputError
from stages.common.examples import Example, one_label
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.seeds import python_rng

SEPARATOR = "\n\n"
"""Text after each demonstration."""


def sample_demonstrations(train_set: Sequence[Example], labels: Sequence[str], shots: int, seed: int) -> list[Example]:
    """Samples `shots` labeled examples per class, in shuffled order.

    Raises:
        InputError: a class has fewer examples.
    """
    rng = python_rng(seed, "demonstrations")
    demonstrations: list[Example] = []
    for label in labels:
        candidates = [item for item in train_set if item.label == label]
        if len(candidates) < shots:
            raise InputError(
                f"{shots} demonstrations per class are required, but {label!r} has {len(candidates)} labeled examples.",
                "Lower priming.shots, or label more examples.",
                key="priming.shots",
            )
        demonstrations += rng.sample(candidates, shots)
    rng.shuffle(demonstrations)
    return demonstrations


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
    num_special = len(encoder.specials.before)
    prefix: tuple[int, ...] = ()
    for example in demonstrations:
        encoded = encoder(example)
        word = first_words[one_label(example.label)]
        index = classifier.backbone.label_word_index(encoded)
        after = encoded.ids[index + 1 : len(encoded.ids) - len(encoder.specials.after_single)]
        prefix += encoded.ids[num_special:index] + word + (encoded.suffix or after) + separator
    limit = classifier.backbone.max_positions
    if limit is not None and len(prefix) + encoder.max_length > limit:
        raise InputError(
            f"{len(demonstrations)} demonstrations have {len(prefix)} tokens; with {encoder.max_length} tokens of text "
            f"they exceed the {limit} positions of the backbone.",
            "Lower priming.shots or backbone.max_length.",
            key="priming.shots",
        )
    encoder.prefix = prefix
