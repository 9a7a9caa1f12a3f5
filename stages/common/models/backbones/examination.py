"""Examines an architecture: how to run it, and what does not work on it.

Every answer is measured on a twin (stages/common/models/twins.py): a way to run it is right if the results equal those
of the public forward pass of transformers on one unpadded text. So a new architecture needs no entry anywhere, and what
would be wrong is refused before anything runs. For the letters in names of tensors see
stages/common/models/backbones/base.py
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import AutoModel, DynamicCache, EncoderDecoderCache, PreTrainedConfig

from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.causal import CausalBackbone
from stages.common.models.backbones.masked import MaskedBackbone
from stages.common.models.backbones.seq2seq import Seq2SeqBackbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.traits import ModelTraits, Padding, PositionLimit, Positions, Use
from stages.common.models.twins import MAX_POSITIONS, VOCABULARY, build_twin, model_class_of
from stages.common.patterns.config import Family
from stages.common.patterns.encoding import Encoded

BACKBONES: dict[Family, type[Backbone]] = {
    "masked": MaskedBackbone,
    "causal": CausalBackbone,
    "seq2seq": Seq2SeqBackbone,
}
TOLERANCE = 1e-4
"""Largest difference of results in float32, relative to the largest result. Wrong ways differ by some percent."""
LENGTHS = (5, 40, 12)
"""Tokens of the texts of an examination."""
NUM_POSITIONS = 4
"""Positions of its deep prompt."""
SENTINEL = 6


class _UnsupportedError(Exception):
    """A use that does not work, with the reason."""


def examine(config: PreTrainedConfig, family: Family, model_class: Any = None) -> ModelTraits:
    """Returns the traits of a model, from forward passes of its twin.

    Args:
        config: Its config.
        family: Its family.
        model_class: Its class, if it is not part of transformers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model_class = model_class or model_class_of(config, family)
        if model_class is None:
            return _refused(f"transformers has no {family} LM head for {config.model_type}")
        try:
            return _Examination(model_class, config, family).traits()
        except _UnsupportedError as error:
            return _refused(str(error))


def examine_encoder(config: PreTrainedConfig) -> ModelTraits:
    """Returns the traits of a text encoder, of which only the limit of its positions is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            twin = build_twin(AutoModel._model_mapping[type(config)], config, "masked")
        except (KeyError, ValueError):  # loading the encoder raises an error
            return ModelTraits()
        return ModelTraits(position_limit=_position_limit(twin, "masked"))


def _position_limit(model: Any, family: Family) -> PositionLimit:
    """Returns how many of its positions the twin can read. Rotary positions have no end, but training ended there."""

    def can_read(length: int) -> bool:
        text = torch.full((1, length), 7)
        try:
            with torch.no_grad():
                model(input_ids=text, **({"decoder_input_ids": text[:, :1]} if family == "seq2seq" else {}))
        except (IndexError, RuntimeError, ValueError):
            return False
        return True

    text_config = model.config.get_text_config()
    is_rotary = bool(getattr(text_config, "rope_parameters", None) or getattr(text_config, "rope_theta", None))
    if not is_rotary and can_read(MAX_POSITIONS + 8):
        return "none"
    return "all" if can_read(MAX_POSITIONS) else "after_pad"


def _refused(reason: str) -> ModelTraits:
    return ModelTraits(refused=dict.fromkeys(("score", "lora", "prompt", "deep"), reason))


class _Call(NamedTuple):
    """A module that a forward pass called, and the first tensor that it returned."""

    name: str
    states: Tensor


class _Tokenizer:
    """What a backbone needs of a tokenizer."""

    eos_token_id = 2
    pad_token_id = 1

    unk_token_id = 0

    def convert_tokens_to_ids(self, token: str) -> int:
        del token
        return SENTINEL


class _Examination:
    def __init__(self, model_class: Any, config: PreTrainedConfig, family: Family) -> None:
        try:
            self.model = build_twin(model_class, config, family)
        except ValueError as error:
            raise _UnsupportedError(f"a small copy of {model_class.__name__} cannot be run ({error})") from error
        if model_class is model_class_of(config, family) and model_class_of(self.model.config, family) is None:
            raise _UnsupportedError(f"its saved config, {self.model.config.model_type}, has no {family} LM head")
        self.family = family
        if family == "seq2seq" and getattr(self.model.generation_config, "decoder_start_token_id", None) is None:
            self.model.generation_config.decoder_start_token_id = 3
        tokenizer = _Tokenizer()
        tokenizer.pad_token_id = getattr(self.model.config, "pad_token_id", None) or 0
        self.tokenizer = tokenizer
        generator = torch.Generator().manual_seed(0)
        ids = [torch.randint(10, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]
        self.texts = [self._encoded(item) for item in ids]
        embedding_size = self.model.get_input_embeddings().weight.shape[1]
        self.vectors_ND = torch.randn(3, embedding_size, generator=generator) * 0.5

    def traits(self) -> ModelTraits:
        with torch.no_grad():
            logits_BV = _attempt("score one text", lambda: self._plain(self.texts))
            self._check_order()
            traits = self._layout(
                ModelTraits(body=self._find_body(logits_BV), position_limit=_position_limit(self.model, self.family)),
                logits_BV,
            )
            words = replace(traits, reads_word_rows=True)
            if type(self.model.get_output_embeddings()) is torch.nn.Linear and self._equals(
                lambda: self._backbone(words).word_logits(self._backbone(words).batch(self.texts), [9, 50, 70]),
                logits_BV[:, [9, 50, 70]],
            ):
                traits = words
            if self.family == "causal" and traits.padding == "left":
                traits = replace(traits, continues_cache=self._continues(traits, logits_BV))
        refused: dict[Use, str] = {}
        checks: dict[Use, Callable[[ModelTraits], None]] = {
            "prompt": self._check_vectors, "deep": self._check_deep, "lora": self._check_lora,
        }  # fmt: skip
        for use, check in checks.items():
            try:
                check(traits)
            except _UnsupportedError as error:
                refused[use] = str(error)
        return replace(traits, refused=refused)

    def _encoded(self, ids: Sequence[int], mask_position: int | None = None) -> Encoded:
        position = len(ids) - 1 if self.family == "causal" else len(ids) // 2
        return Encoded(tuple(ids), (0,) * len(ids), position if mask_position is None else mask_position)

    def _backbone(self, traits: ModelTraits) -> Backbone:
        return BACKBONES[self.family](self.model, self.tokenizer, traits)

    def _plain(self, texts: Sequence[Encoded]) -> Tensor:
        """Returns logits [B, V] at the mask, of the public forward pass on each text without padding."""
        return torch.stack([self._plain_logits({"input_ids": torch.tensor([item.ids])}, item) for item in texts])

    def _plain_logits(self, arguments: dict[str, Tensor], item: Encoded, *, shift: int = 0) -> Tensor:
        if self.family == "seq2seq":
            start = self.model.generation_config.decoder_start_token_id
            logits_LV: Tensor = self.model(**arguments, decoder_input_ids=torch.tensor([[start, SENTINEL]])).logits[0]
            return logits_LV[-1]
        logits_LV = self.model(**arguments).logits[0]
        return logits_LV[shift + item.mask_position]

    def _equals(self, compute: Callable[[], Tensor], expected: Tensor) -> bool:
        """Returns True if a way to run the twin has the expected result; a way that fails has not."""
        try:
            actual = compute()
        except Exception:  # Architectures reject arguments in many ways.
            return False
        return actual.shape == expected.shape and _difference(actual, expected) < TOLERANCE

    def _check_order(self) -> None:
        """Checks that the model is deterministic, and that a causal model reads nothing after the next word."""
        item = self.texts[1]
        first, again = self._plain([item]), self._plain([item])
        if _difference(first, again) > TOLERANCE:
            raise _UnsupportedError("two passes over the same text differ")
        if not torch.isfinite(first).all() or float(first.std()) == 0.0:
            raise _UnsupportedError("its logits do not depend on the text")
        if self.family != "causal":
            return
        longer = torch.tensor([[*item.ids, 40, 41]])
        if _difference(self.model(input_ids=longer).logits[0, item.mask_position], first[0]) > TOLERANCE:
            raise _UnsupportedError(
                "its tokens read the text after them, so it is no causal language model (is_decoder)"
            )

    def _find_body(self, logits_BV: Tensor) -> str:
        """Returns the name of the module from whose output the model computes its logits.

        It is one of those that the forward pass calls directly: the first one whose hidden states, given in its place,
        lead to the same logits.
        """
        if self.family == "seq2seq":
            return ""  # its decoder and LM head always run together
        for call in self._direct_calls():
            if call.states.ndim != 3:
                continue
            backbone = self._backbone(ModelTraits(body=call.name))
            states_BD = call.states[:, self.texts[0].mask_position]
            if self._equals(partial(backbone.lm_head, states_BD), logits_BV[:1]):
                return call.name
        raise _UnsupportedError("its logits cannot be computed from the last hidden states of one module")

    def _direct_calls(self) -> list[_Call]:
        """Returns the modules that the forward pass of the model itself calls, in order."""
        calls: list[_Call] = []
        depth = 0
        handles = []
        names = {module: name for name, module in self.model.named_modules()}

        def enter(*_: Any) -> None:
            nonlocal depth
            depth += 1

        def leave(module: Any, _: Any, output: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth:
                return
            first = output if isinstance(output, Tensor) else output[0]
            if isinstance(first, Tensor):
                calls.append(_Call(names[module], first))

        for module in list(self.model.modules())[1:]:
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        self._plain(self.texts[:1])
        for handle in handles:
            handle.remove()
        return calls

    def _layout(self, traits: ModelTraits, logits_BV: Tensor) -> ModelTraits:
        """Returns the traits with positions and padding, which give the right logits for a padded batch.

        If possible, they also do so with vectors before the texts, between which and a text padding may be.
        """
        sides: tuple[Padding, ...] = ("left", "right", "none") if self.family == "causal" else ("right", "none")
        starts: tuple[Positions, ...] = ("from_zero", "after_pad", "none")
        first: ModelTraits | None = None
        for padding, positions in product(sides, starts):
            candidate = replace(traits, padding=padding, positions=positions)
            backbone = self._backbone(candidate)
            if positions != "none" and not backbone._takes("position_ids"):
                continue
            if not self._equals(partial(_batch_logits, backbone, self.texts), logits_BV):
                continue
            first = first or candidate
            with suppress(_UnsupportedError):
                self._check_vectors(candidate)
                return candidate
        if first is None:
            raise _UnsupportedError("its logits change with the texts of a batch, whatever the padding")
        return first

    def _continues(self, traits: ModelTraits, logits_BV: Tensor) -> bool:
        """Returns True if texts can be read in two parts over a cache, the second one twice."""
        backbone = self._backbone(traits)
        assert isinstance(backbone, CausalBackbone)

        def compute() -> Tensor:
            table = self.model.get_input_embeddings()
            batch = backbone.batch([self._encoded(item.ids[:-2]) for item in self.texts])
            cache = DynamicCache(config=self.model.config)
            backbone.continue_from_cache(table(batch.input_ids), batch.attention_mask, cache)
            ends_BT = torch.tensor([item.ids[-2:] for item in self.texts])
            mask = torch.cat([batch.attention_mask, torch.ones_like(ends_BT)], dim=1)
            for ids_BT in (ends_BT.flip(0), ends_BT):
                states_BTD = backbone.continue_from_cache(table(ids_BT), mask, cache)
                cache.crop(-2)
            return backbone.lm_head(states_BTD[:, -1])

        return self._equals(compute, logits_BV)

    def _check_vectors(self, traits: ModelTraits) -> None:
        backbone = self._backbone(traits)
        table = self.model.get_input_embeddings()

        def plain() -> Tensor:
            rows = []
            for item in self.texts:
                embedded = torch.cat([self.vectors_ND[None], table(torch.tensor([item.ids]))], dim=1)
                rows.append(self._plain_logits({"inputs_embeds": embedded}, item, shift=len(self.vectors_ND)))
            return torch.stack(rows)

        with torch.no_grad():
            ids = torch.tensor([self.texts[0].ids])
            read = _attempt("read vectors", lambda: self._plain_logits({"inputs_embeds": table(ids)}, self.texts[0]))
            if _difference(read, self._plain(self.texts[:1])[0]) > TOLERANCE:
                raise _UnsupportedError("it reads more of a token than its input embedding")
            expected = _attempt("read vectors", plain)
            prompt = SoftInput(before=self.vectors_ND)
            if not self._equals(partial(_batch_logits, backbone, self.texts, prompt), expected):
                raise _UnsupportedError("vectors before a text change with the padding of its batch")

    def _check_deep(self, traits: ModelTraits) -> None:
        """Checks a deep prompt: with the keys and values of some tokens, texts read as after these tokens."""
        backbone = self._backbone(traits)
        tokens = torch.randint(10, VOCABULARY, (1, NUM_POSITIONS), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            pairs = _attempt("give its keys and values", lambda: backbone.token_keys_and_values(tokens))
            if not pairs:
                raise _UnsupportedError(
                    "it does not look up its attention in the registry of transformers"
                    if self.family == "masked"
                    else "it keeps no keys and values"
                )
            shapes = {tuple(tensor.shape) for pair in pairs for tensor in pair}
            if len(shapes) != 1:
                raise _UnsupportedError(f"its layers have keys and values of {len(shapes)} shapes")
            layers = torch.stack([torch.stack([pair.keys[0], pair.values[0]]) for pair in pairs])
            if self.family == "seq2seq":
                layers = torch.randn(layers.shape, generator=torch.Generator().manual_seed(2))
            expected = _attempt("read a text after others", lambda: self._after(tokens, layers, traits))
            prompt = SoftInput(layers=layers)
            logits = _attempt("take keys and values", partial(_batch_logits, backbone, self.texts, prompt))
            if logits.shape != expected.shape or _difference(logits, expected) > TOLERANCE:
                raise _UnsupportedError("keys and values do not act on it like a text before the input")

    def _after(self, tokens_1P: Tensor, layers: Tensor, traits: ModelTraits) -> Tensor:
        """Returns logits [B, V] of texts after these tokens; masked models: the tokens do not see the text."""
        if self.family == "causal":
            texts = [self._encoded([*tokens_1P[0].tolist(), *item.ids]) for item in self.texts]
            return self._plain(texts)
        if self.family == "seq2seq":
            rows = []
            start = self.model.generation_config.decoder_start_token_id
            for item in self.texts:
                cache = EncoderDecoderCache(SoftInput(layers=layers).cache(1, torch.float32), DynamicCache())
                ids = torch.tensor([item.ids])
                output = self.model(
                    input_ids=ids, decoder_input_ids=torch.tensor([[start, SENTINEL]]), past_key_values=cache
                )
                rows.append(output.logits[0, -1])
            return torch.stack(rows)
        rows = []
        count = tokens_1P.shape[1]
        for item in self.texts:
            ids = torch.tensor([[*tokens_1P[0].tolist(), *item.ids]])
            mask = torch.zeros(1, 1, ids.shape[1], ids.shape[1])
            mask[:, :, :count, count:] = torch.finfo(torch.float32).min
            rows.append(self.model(input_ids=ids, attention_mask=mask).logits[0, count + item.mask_position])
        return torch.stack(rows)

    def _check_lora(self, traits: ModelTraits) -> None:
        """Checks that LoRA weights reach the logits of a padded batch."""
        settings = LoraConfig(r=2, target_modules="all-linear")
        adapter = _attempt("take LoRA weights", lambda: get_peft_model(self.model, settings))
        try:
            saved = get_peft_model_state_dict(adapter)
            unknown = set_peft_model_state_dict(adapter, saved).unexpected_keys
            backbone = self._backbone(traits)
            logits = _attempt("train", lambda: backbone.word_logits(backbone.batch(self.texts), [9, 50, 70]))
            weights = [weight for name, weight in self.model.named_parameters() if "lora_B" in name]
            grads = torch.autograd.grad(logits.square().sum(), weights, allow_unused=True)
            if not any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads):
                raise _UnsupportedError("no LoRA weight of its linear layers has an effect")
        finally:
            adapter.unload()
        if unknown:
            raise _UnsupportedError(f"PEFT saves its LoRA weights under a name that it cannot load ({unknown[0]})")


def _batch_logits(backbone: Backbone, texts: Sequence[Encoded], prompt: SoftInput | None = None) -> Tensor:
    return backbone.vocabulary_logits(backbone.batch(texts), prompt)


def _attempt(action: str, compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except Exception as error:  # Architectures reject what they do not support in many ways.
        # The first sentence: more of it may list modules in any order.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:160]
        named = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise _UnsupportedError(f"it cannot {action} ({named})") from error


def _difference(actual: Tensor, expected: Tensor) -> float:
    """Returns the largest difference, relative to the largest expected value."""
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
