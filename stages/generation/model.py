"""A text generator: a frozen language model with a soft prompt that continues an input with the target.

Training predicts each token of the target from the input and the tokens before it (teacher forcing); the loss counts
tokens of targets only. Letters in names of tensors: B batch, L length, T tokens of the longest target, V vocabulary, D
hidden size, M tokens of all targets of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.engine import InProcessEngine
from stages.common.errors import InputError
from stages.common.metrics.classification import DevScore
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.causal import HEAD_ROWS
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.seq2seq import Seq2SeqBackbone, decoder_start_id
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.batching import autocast, wants_bf16
from stages.common.models.text_generation import Beams, Generator, Sampling, TextStart
from stages.common.patterns.encoding import Encoded, Encoder, SpecialTokens
from stages.common.plain_text import PlainText
from stages.common.prompts.loader import ModelLoader
from stages.common.prompts.soft_prompt import Prompt
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import torch_rng
from stages.generation.config import SERVING_FILE, DecodingConfig, GenerationServingConfig, TargetTask
from stages.generation.examples import GenerationExample
from stages.generation.streaming import TextParts

DEV_BATCH_SIZE = 8


@dataclass(frozen=True, slots=True)
class GenerationItem:
    """A training item: the input, and the tokens of the target with the one that ends it."""

    encoded: Encoded
    target: tuple[int, ...]
    is_cut: bool = False
    """True if the target is longer than `max_new_tokens`: it then has no end."""


class TargetScores(NamedTuple):
    """The negative log-likelihood of each token of the targets [M], and whether it is the most likely one [M]."""

    losses: Tensor
    is_right: Tensor


class TextGenerator:
    """A backbone with a prompt for one generation task."""

    def __init__(
        self,
        task: TargetTask,
        backbone: Backbone,
        config: BackboneConfig,
        prompt: Prompt | None,
        decoding: DecodingConfig | None = None,
    ) -> None:
        """
        Args:
            task: Inputs and targets.
            backbone: A causal or seq2seq model.
            config: Its config.
            prompt: The soft prompt, if any.
            decoding: How texts are generated. Default: greedily.

        Raises:
            InputError: the backbone is masked, or its tokenizer has no token that ends a text.
        """
        if backbone.family == "masked":
            raise InputError("a masked model does not generate texts.", "Use a causal or seq2seq backbone.")
        if backbone.tokenizer.eos_token_id is None:
            raise InputError(
                "the tokenizer of the backbone has no token that ends a text (eos_token).",
                "Set eos_token in its tokenizer_config.json, or use another backbone.",
            )
        self.task = task
        self.backbone = backbone
        self.prompt = prompt
        self.decoding = decoding or DecodingConfig()
        self.head = None
        self.max_length = config.max_length
        self.autocast = backbone.model.dtype == torch.float32 and wants_bf16(config.precision)
        self._plain = PlainText(backbone.tokenizer)
        # Seq2seq inputs are encoded like those of causal models, which have no mask; then they get their end.
        self._end = SpecialTokens.of(backbone.tokenizer).after_single if backbone.family == "seq2seq" else ()
        self._encode = Encoder(
            task.input_pattern, backbone.tokenizer, "causal", config.max_length, task.truncation,
            num_reserved=len(self._end), soft_blocks=prompt is not None and prompt.position == "inside",
        )  # fmt: skip

    def _soft_input(self, items: Sequence[GenerationItem]) -> SoftInput:
        """Returns what the prompt adds to passes over these inputs. It reads no targets."""
        return SoftInput() if self.prompt is None else self.prompt([item.encoded for item in items])

    def encode(self, example: GenerationExample) -> Encoded:
        """Returns the input of an example as tokens."""
        encoded = self._encode(example.input)
        return Encoded(
            encoded.ids + self._end,
            encoded.token_type_ids + (0,) * len(self._end),
            encoded.mask_position + len(self._end),
            soft_positions=encoded.soft_positions,
        )

    def items(self, examples: Sequence[GenerationExample]) -> list[GenerationItem]:
        """Returns the training items of examples: the target is their first reference."""
        return [self._item(example) for example in examples]

    def _item(self, example: GenerationExample) -> GenerationItem:
        space = self.task.space if self.backbone.family == "causal" else ""
        text = space + self._plain(example.references[0])
        ids: list[int] = self.backbone.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = [*ids, self.backbone.tokenizer.eos_token_id]
        limit = self.task.max_new_tokens
        return GenerationItem(self.encode(example), tuple(ids[:limit]), is_cut=len(ids) > limit)

    def loss(self, part: list[GenerationItem], batch: list[GenerationItem] | None = None) -> Tensor:
        """Returns what a part of a batch contributes to the loss of the batch: the mean over all tokens of its targets.

        Default: the part is the batch.
        """
        num_tokens = sum(len(item.target) for item in batch or part)
        return self.target_scores(part).losses.sum() / num_tokens

    def target_scores(self, items: Sequence[GenerationItem]) -> TargetScores:
        """Returns scores of the tokens of all targets, target after target."""
        with autocast(self.autocast):
            if self.backbone.family == "seq2seq":
                return self._seq2seq_scores(items)
            return self._causal_scores(items)

    def _causal_scores(self, items: Sequence[GenerationItem]) -> TargetScores:
        """Reads input and target in one pass. Each position predicts the next token."""
        texts = [
            Encoded(
                item.encoded.ids + item.target[:-1],
                item.encoded.token_type_ids + (0,) * (len(item.target) - 1),
                len(item.encoded.ids) + len(item.target) - 2,
                soft_positions=item.encoded.soft_positions,
            )
            for item in items
        ]
        batch = self.backbone.batch(texts)
        states_BLD = self.backbone.hidden_states(batch, self._soft_input(items))
        rows = [row for row, item in enumerate(items) for _ in item.target]
        from_end = [number for item in items for number in range(len(item.target) - 1, -1, -1)]
        last_B = batch.mask_position.tolist()
        columns = [last_B[row] - back for row, back in zip(rows, from_end, strict=True)]
        states_MD = states_BLD[rows, columns]
        targets_M = torch.tensor([token for item in items for token in item.target], device=states_MD.device)
        # Workers that each hold a part of the head must apply it the same number of times, whatever their texts.
        num_rows = len(states_MD) if self.backbone.is_partitioned else HEAD_ROWS
        parts = [
            _scores(self.backbone.lm_head(states), targets)
            for states, targets in zip(states_MD.split(num_rows), targets_M.split(num_rows), strict=True)
        ]
        return TargetScores(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _seq2seq_scores(self, items: Sequence[GenerationItem]) -> TargetScores:
        """The encoder reads the input; the decoder reads the target, after its start token."""
        assert isinstance(self.backbone, Seq2SeqBackbone)
        longest, device = max(len(item.target) for item in items), self.backbone.device
        written_BT = torch.full((len(items), longest), self.backbone.pad_id)
        is_token_BT = torch.zeros(len(items), longest, dtype=torch.bool)
        for row, item in enumerate(items):
            written_BT[row, : len(item.target)] = torch.tensor(item.target)
            is_token_BT[row, : len(item.target)] = True
        start_B1 = torch.full((len(items), 1), decoder_start_id(self.backbone.model))
        read_BT = torch.cat([start_B1, written_BT[:, :-1]], dim=1)
        all_prompts, parts = self._soft_input(items), []
        for rows in self._equal_inputs(items):
            prompt = all_prompts.select(torch.tensor(rows, device=device))
            batch = self.backbone.batch([items[row].encoded for row in rows])
            logits_BTV = self.backbone.decode(self.backbone.encode(batch, prompt), read_BT[rows].to(device), prompt)
            is_token = is_token_BT[rows].to(device)
            parts.append(_scores(logits_BTV[is_token], written_BT[rows].to(device)[is_token]))
        return TargetScores(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _equal_inputs(self, items: Sequence[GenerationItem]) -> list[list[int]]:
        """Returns the rows of each pass: all, or those of one length if padding would change an input."""
        if self.backbone.traits.padding != "none":
            return [list(range(len(items)))]
        lengths = [len(item.encoded.ids) for item in items]
        return [[row for row, item in enumerate(lengths) if item == length] for length in sorted(set(lengths))]

    def generate(
        self, examples: Sequence[GenerationExample], recorder: Recorder, phase: str, engine: Engine | None = None
    ) -> list[str]:
        """Returns the text for each example, in order.

        Args:
            examples: Inputs.
            recorder: Gets the progress under the name `phase`.
            phase: What is generated.
            engine: Shares the batches among workers. Default: one process.
        """
        with self.backbone.evaluation(), autocast(self.autocast):
            written = self._generator(engine)(
                [self._start(item) for item in examples],
                self.task.max_new_tokens,
                lambda done, total: recorder.log_progress(done, total, phase=phase),
                decoding=_search(self.decoding),
            )
        return [self.text_of(item.ids) for item in written]

    def stream(self, example: GenerationExample, emit: Callable[[str], None], is_canceled: Callable[[], bool]) -> str:
        """Returns the text for an example, whose parts are sent as soon as they are written.

        Args:
            example: The input.
            emit: Gets each part.
            is_canceled: Returns True if the text is no longer wanted.

        Raises:
            CanceledError: the text is no longer wanted.
        """
        with self.backbone.evaluation(), autocast(self.autocast):
            (written,) = self._generator(None)(
                [self._start(example)],
                self.task.max_new_tokens,
                lambda done, total: None,
                decoding=_search(self.decoding),
                streamer=TextParts(self.text_of, emit, is_canceled),
            )
        return self.text_of(written.ids)

    def _generator(self, engine: Engine | None) -> Generator:
        end_ids = (self.backbone.tokenizer.eos_token_id,)
        num_more = 0 if self.prompt is None or self.prompt.position == "inside" else self.prompt.num_virtual_tokens
        return Generator(
            self.backbone, engine or InProcessEngine(), prompt=self.prompt, num_more=num_more, end_ids=end_ids
        )

    def _start(self, example: GenerationExample) -> TextStart:
        if self.decoding.strategy != "sample":
            return TextStart(self.encode(example))
        randoms = torch_rng(self.decoding.seed or 0, "sample", example.uid)
        return TextStart(
            self.encode(example), torch.rand(self.task.max_new_tokens, generator=randoms, dtype=torch.float64)
        )

    def text_of(self, ids: Sequence[int]) -> str:
        """Returns generated tokens as text."""
        return str(self.backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def validate(self, examples: Sequence[GenerationExample], recorder: Recorder) -> DevScore:
        """Evaluates the dev set for early stopping: the fraction of tokens of the targets that are the most likely ones
        after the input and the tokens before them, and the loss. No text is generated.
        """
        items, num_done = self.items(examples), 0
        losses, is_right = [], []
        with self.backbone.evaluation():
            for start in range(0, len(items), DEV_BATCH_SIZE):
                scores = self.target_scores(items[start : start + DEV_BATCH_SIZE])
                losses.append(scores.losses)
                is_right.append(scores.is_right)
                num_done = min(start + DEV_BATCH_SIZE, len(items))
                recorder.log_progress(num_done, len(items), phase="dev set")
        return DevScore(float(torch.cat(is_right).float().mean()), float(torch.cat(losses).mean()))


def _scores(logits_MV: Tensor, targets_M: Tensor) -> TargetScores:
    losses_M = F.cross_entropy(logits_MV.float(), targets_M, reduction="none")
    return TargetScores(losses_M, logits_MV.argmax(dim=1) == targets_M)


def _search(decoding: DecodingConfig) -> Sampling | Beams:
    if decoding.strategy == "sample":
        return Sampling(temperature=decoding.temperature or 1.0, top_p=decoding.top_p)
    length_penalty = 1.0 if decoding.length_penalty is None else decoding.length_penalty
    return Beams(count=decoding.width, length_penalty=length_penalty)


def load_generator(folder: Path) -> TextGenerator:
    """Loads the prompt that the tuning stage wrote to `folder`, on its backbone.

    Raises:
        InputError: it was trained for another backbone.
    """
    config = GenerationServingConfig.model_validate_json((folder / SERVING_FILE).read_text(encoding="utf-8"))
    backbone, prompt, _ = ModelLoader().load_prompt(folder, config.backbone, ())
    return TextGenerator(config.task, backbone, config.backbone, prompt, config.task.decoding)
