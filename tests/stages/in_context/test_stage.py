"""Tests of the stage of in-context learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stages.common.data.step_outputs import read_logits
from stages.common.errors import InputError
from stages.common.metrics.classification import softmax
from stages.in_context import stage
from stages.in_context.config import InContextConfig
from tests.support.small_models import backbone_config, film_task
from tests.support.stage_runs import run

LABELS = ("rotten", "fresh")


def config(folder: Path, **settings: Any) -> InContextConfig:
    return InContextConfig(
        task=film_task("llama").only("review"), pattern="review", backbone=backbone_config(folder), **settings
    )


def logits_of(folder: Path) -> np.ndarray:
    return read_logits(folder / "test_logits.jsonl", LABELS).logits


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"selection": "random", "seed": 4},
        {"selection": "retrieved"},
        {"num_orders": 3},
        {"calibration": "contextual"},
        {"calibration": "domain"},
        {"calibration": "batch"},
    ],
    ids=str,
)
def test_stage_scores_the_test_set(
    settings: dict[str, Any], backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    plain = run(stage, config(backbone_folders["llama"], shots=1), stage.Inputs(data=film_data), tmp_path / "plain")
    shots = {"shots": 1} if settings != {} else {"shots": 2}
    result = run(
        stage, config(backbone_folders["llama"], **shots, **settings), stage.Inputs(data=film_data), tmp_path / "out"
    )
    assert abs(logits_of(tmp_path / "out") - logits_of(tmp_path / "plain")).max() > 1e-3
    expected = 8 if settings.get("selection") == "retrieved" else 4 if settings == {} else 2
    assert (result.num_labeled, plain.num_labeled, result.trainable_parameters) == (expected, 2, 0)
    assert result.demonstrations_per_text == (4 if settings == {} else 2)
    assert softmax(logits_of(tmp_path / "out")).sum(axis=1) == pytest.approx(np.ones(12))


def test_orders_are_averaged(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    """With all orders of two demonstrations, the seed of the first order does not matter."""
    probabilities = []
    for seed in (0, 1, 2, 3):
        settings = config(backbone_folders["llama"], shots=1, selection="retrieved", num_orders=8, seed=seed)
        run(stage, settings, stage.Inputs(data=film_data), tmp_path / str(seed))
        probabilities.append(softmax(logits_of(tmp_path / str(seed))))
    one = config(backbone_folders["llama"], shots=1, selection="retrieved", num_orders=1)
    run(stage, one, stage.Inputs(data=film_data), tmp_path / "one")
    spread = np.std(probabilities, axis=0).max()
    assert spread < abs(softmax(logits_of(tmp_path / "one")) - np.mean(probabilities, axis=0)).max()


def test_batch_calibration_needs_unlabeled_texts(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    (film_data / "unlabeled.jsonl").write_text("")
    settings = config(backbone_folders["llama"], calibration="batch")
    with pytest.raises(InputError, match="calibration: batch needs unlabeled texts"):
        run(stage, settings, stage.Inputs(data=film_data), tmp_path / "out")


def test_retriever_without_retrieval_is_rejected(backbone_folders: dict[str, Path]) -> None:
    encoder = {"asset": str(backbone_folders["bert"])}
    with pytest.raises(ValidationError, match="selection: balanced retrieves nothing"):
        config(backbone_folders["llama"], retriever=encoder)
