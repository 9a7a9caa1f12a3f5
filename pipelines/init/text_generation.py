"""`clozeline generate`: a language model writes texts per label, as unlabeled data for a task that has too few.

Each request shows some texts of one label and requests more of them, as in "Generating Datasets with Pretrained
Language Models" (Schick & Schütze, EMNLP 2021) and ZeroGen (Ye et al., EMNLP 2022). The label that was requested is
kept in the file to look at, but not used: the ensemble labels the texts, as all unlabeled data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.init.labeled_file import LabeledData
from stages.common.data.text_keys import text_key
from stages.common.seeds import python_rng
from stages.llm.answers import Request, request
from stages.llm.client import ChatClient
from stages.llm.config import EndpointSettings
from stages.llm.costs import Estimate
from stages.llm.messages import CHARACTERS_PER_TOKEN, message

TEXTS_PER_REQUEST = 10
"""More make texts similar to each other; fewer repeat the examples more often."""
EXAMPLES_PER_REQUEST = 5
MAX_CHARACTERS = 2000
"""Longer examples are cut."""
MAX_ROUNDS = 3
"""How often texts that are missing, because answers repeat each other, are requested."""
TEMPERATURE = 1.0
INSTRUCTION = (
    "You write example texts for a text classifier. Its labels: {labels}.\n"
    'Write {number} new texts whose label is "{label}"{meaning}. They have style, length and language of the examples, '
    "differ from them and from each other, and do not name the label unless the examples do. "
    "Answer with a JSON list of {items}, and with nothing else."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """The texts that a language model has written."""

    rows: Sequence[Mapping[str, str]]
    """The fields of each text, and the label that was requested, in the columns of the labeled file."""
    num_missing: int
    """Texts that were requested but not received, or that repeat others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextGenerator:
    """Requests texts from an endpoint.

    Args:
        settings: The endpoint, and limits of its use.
        data: The labeled file, of which the examples are taken.
        per_label: Texts to write per label.
        descriptions: Label -> what it means.
        seed: Seed of the choice of examples.
    """

    settings: EndpointSettings
    data: LabeledData
    per_label: int
    descriptions: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def estimate(self) -> Estimate:
        """Returns what the first round of requests needs.

        Raises:
            InputError: it is above a limit of the settings.
        """
        requests = [body for _, body in self._requests(dict.fromkeys(self.data.labels, self.per_label), 0)]
        estimate = Estimate.of(requests, self.settings, self._num_tokens(TEXTS_PER_REQUEST))
        estimate.check(self.settings)
        return estimate

    def write_texts(self, on_progress: Callable[[int, int], None]) -> Generated:
        """Requests the texts. A text that is in the labeled file, or was written before, is left out.

        Args:
            on_progress: Called with the number of answers so far and of all of a round, after each answer.

        Raises:
            InputError: the endpoint refuses a request, or fails in all attempts.
        """
        client = ChatClient(self.settings)
        known = {text_key(item.values()) for item in self.data.texts}
        texts: dict[str, list[Mapping[str, str]]] = {label: [] for label in self.data.labels}
        for number in range(MAX_ROUNDS):
            missing = {label: self.per_label - len(items) for label, items in texts.items()}
            requests = list(self._requests(missing, number))
            answers = client.answer_all([body for _, body in requests], on_progress)
            for (label, _), answer in zip(requests, answers, strict=True):
                for item in parse_texts(answer, tuple(self.data.fields)):
                    key = text_key(item.values())
                    if key not in known and len(texts[label]) < self.per_label:
                        known.add(key)
                        texts[label].append(item)
        rows = [
            {**{self.data.fields[name]: text for name, text in item.items()}, self.data.label: label}
            for label, items in texts.items()
            for item in items
        ]
        return Generated(rows=rows, num_missing=self.per_label * len(texts) - len(rows))

    def _requests(self, missing: Mapping[str, int], number: int) -> Iterator[tuple[str, Request]]:
        """Yields label and body of each request of a round. `missing`: label -> texts to write.

        Later rounds request more than what is missing, as some texts will repeat others.
        """
        for label, count in missing.items():
            for part in range(-(-count // TEXTS_PER_REQUEST)):
                size = TEXTS_PER_REQUEST if number else min(TEXTS_PER_REQUEST, count - part * TEXTS_PER_REQUEST)
                rng = python_rng(self.seed, "generate", label, number, part)
                known = [item for item, gold in zip(self.data.texts, self.data.gold, strict=True) if gold == label]
                examples = rng.sample(known, min(EXAMPLES_PER_REQUEST, len(known)))
                yield label, self._request(label, size, examples, seed=rng.randrange(2**31))

    def _request(self, label: str, size: int, examples: Sequence[Mapping[str, str]], *, seed: int) -> Request:
        """Returns the request for `size` texts of a label like `examples`."""
        fields = tuple(self.data.fields)
        meaning = f" ({self.descriptions[label]})" if label in self.descriptions else ""
        items = "strings" if len(fields) == 1 else f"objects with the keys {' and '.join(fields)}"
        instruction = INSTRUCTION.format(
            labels=", ".join(self.data.labels), number=size, label=label, meaning=meaning, items=items
        )
        cut = [{name: text[:MAX_CHARACTERS] for name, text in item.items()} for item in examples]
        shown: list[Any] = [item[fields[0]] for item in cut] if len(fields) == 1 else list(cut)
        chat = [message("system", instruction), message("user", json.dumps(shown, ensure_ascii=False, indent=0))]
        limit = 2 * self._num_tokens(size) + 100
        return request(self.settings.model, chat, max_answer_tokens=limit, temperature=TEMPERATURE, seed=seed)

    def _num_tokens(self, num_texts: int) -> int:
        """Returns the usual number of tokens of an answer, with texts as long as those of the file."""
        lengths = [min(MAX_CHARACTERS, sum(map(len, item.values()))) for item in self.data.texts]
        return num_texts * (sum(lengths) // (CHARACTERS_PER_TOKEN * len(lengths)) + 5)


def parse_texts(answer: str, fields: Sequence[str]) -> list[dict[str, str]]:
    """Returns the fields of each text in an answer. What follows a damaged item is left out.

    >>> parse_texts('Here they are: ["A fine film.", "Dull", "A str', ["text"])
    [{'text': 'A fine film.'}, {'text': 'Dull'}]
    """
    decoder = json.JSONDecoder()
    texts: list[dict[str, str]] = []
    position = answer.find("[") + 1
    while 0 < position < len(answer):
        position += len(answer[position:]) - len(answer[position:].lstrip(", \t\r\n"))
        try:
            value, position = decoder.raw_decode(answer, position)
        except ValueError:
            break
        item = {fields[0]: value} if len(fields) == 1 and isinstance(value, str) else value
        if isinstance(item, dict) and all(isinstance(item.get(name), str) and item[name].strip() for name in fields):
            texts.append({name: " ".join(item[name].split()) for name in fields})
    return texts
