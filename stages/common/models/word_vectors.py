"""Logistic regression on averaged word vectors: the mean of the input embeddings of a text's tokens.

The baseline of averaged vectors in papers (such as Wieting et al., ICLR 2016, https://arxiv.org/abs/1511.08198). The
order of tokens does not count, and nothing but the linear layer is trained. Since mean and layer are linear, a text is
scored by the mean of one score per token and label, and a folder needs no embeddings: it has the tokenizer,
`word_vectors.json`, and `word_vectors.safetensors` with these scores. Letters in names of tensors: n examples, V tokens
of the vocabulary, D width, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.common.config import TextTaskConfig
from stages.common.examples import Example
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.linear_heads import fit_logistic_regression
from stages.common.models.tokenizers import load_tokenizer
from stages.common.plain_text import PlainText
from stages.common.problems import problem_of
from stages.common.protocols import Recorder

WORD_VECTORS_FILE = "word_vectors.json"
WEIGHTS_FILE = "word_vectors.safetensors"


class WordVectors:
    """text -> mean of its tokens' rows of a table. `table_VK`: a row per token, on the CPU."""

    def __init__(self, tokenizer: Any, table_VK: Tensor, fields: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.table_VK = table_VK
        self.fields = tuple(fields)
        self._plain = PlainText(tokenizer)

    @classmethod
    def of(cls, asset: str, fields: Sequence[str]) -> WordVectors:
        """Reads the input embeddings of a model, without their mean, which says nothing about a text.

        Raises:
            AssetError: the reference is unreachable, or is not a usable model.
        """
        encoder = TextEncoder.of(EncoderConfig(asset=asset), fields)
        table_VD = encoder.model.get_input_embeddings().weight.detach().float().cpu()
        return cls(encoder.tokenizer, table_VD - table_VD.mean(dim=0), fields)

    def average(self, examples: Sequence[Example]) -> Tensor:
        """Returns the mean row of each example, [n, K]; 0 for a text without tokens."""
        if not examples:
            return torch.zeros(0, self.table_VK.shape[1])
        texts = [self._plain(" ".join(item.fields[name] for name in self.fields)) for item in examples]
        ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        offsets = torch.tensor([0, *np.cumsum([len(item) for item in ids])[:-1]])
        tokens = torch.tensor([token for item in ids for token in item], dtype=torch.long)
        return F.embedding_bag(tokens, self.table_VK, offsets, mode="mean")


class WordVectorClassifier:
    """text -> mean of its tokens' scores -> [n, C] logits. `task`: labels and fields; `vectors`: scores [V, C]."""

    def __init__(self, task: TextTaskConfig, vectors: WordVectors, bias_C: Tensor) -> None:
        self.problem = problem_of(task.labels, task.problem_type)
        self.task = task
        self.vectors = vectors
        self.bias_C = bias_C

    @classmethod
    def fit(
        cls,
        task: TextTaskConfig,
        vectors: WordVectors,
        examples: Sequence[Example],
        *,
        regularization_c: float,
        weights: Tensor | None = None,
    ) -> WordVectorClassifier:
        """Fits the layer to labeled examples, whose vectors are scaled to a mean square length of 1.

        Args:
            task: Labels and fields.
            vectors: The vectors, [V, D].
            examples: [n] labeled examples.
            regularization_c: C of scikit-learn's LogisticRegression.
            weights: [n] weight of each example. Default: 1.
        """
        problem = problem_of(task.labels, task.problem_type)
        features_nD = vectors.average(examples)
        scale = 1.0 / features_nD.square().sum(dim=1).mean().sqrt().clamp_min(1e-12)
        targets_nC = torch.from_numpy(problem.targets(problem.gold_of(examples)))
        fitted = fit_logistic_regression(
            features_nD * scale, targets_nC, regularization_c, weights, problem_type=task.problem_type
        )
        scores_VC = vectors.table_VK @ (fitted.weight.T * scale)
        return cls(task, WordVectors(vectors.tokenizer, scores_VC, task.fields), fitted.bias)

    def add_bias(self, bias_C: NDArray[np.float64]) -> None:
        """Adds to the bias of each label."""
        self.bias_C = self.bias_C + torch.from_numpy(bias_C).to(self.bias_C)

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns logits, [n, C], in the order of `examples`."""
        logits: NDArray[np.float64] = (self.vectors.average(examples) + self.bias_C).double().numpy()
        recorder.log_progress(len(examples), len(examples), phase=phase)
        return logits

    def save(self, folder: Path) -> None:
        """Writes the classifier with its tokenizer."""
        task = TextTaskConfig.of(self.task).model_dump_json()
        (folder / WORD_VECTORS_FILE).write_text(task + "\n", encoding="utf-8")
        tensors = {"scores": self.vectors.table_VK.contiguous(), "bias": self.bias_C.contiguous()}
        save_file(tensors, folder / WEIGHTS_FILE)
        self.vectors.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> WordVectorClassifier:
        """Loads the classifier that `save` wrote."""
        task = TextTaskConfig.model_validate(json.loads((folder / WORD_VECTORS_FILE).read_text(encoding="utf-8")))
        tensors = load_file(folder / WEIGHTS_FILE)
        return cls(task, WordVectors(load_tokenizer(folder), tensors["scores"], task.fields), tensors["bias"])
