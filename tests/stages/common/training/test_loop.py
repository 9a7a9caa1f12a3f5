"""Tests of the training loop: learning, order, schedules, divergence and early stopping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stages.common.engine import InProcessEngine
from stages.common.errors import DivergedError, InputError
from stages.common.protocols import NullRecorder
from stages.common.training.loop import LengthGroupedSampler, train
from tests.support.line_problem import ITEMS, DevEvaluations, Line, config, fit, stopping
from tests.support.stage_runs import Kept


def test_train_fits_a_small_problem() -> None:
    model = Line()
    losses = fit(model, config(steps=400, lr_scheduler="cosine", weight_decay=0.0))
    assert len(losses) == 400
    assert losses[0] > 0.5
    assert max(losses[-5:]) < 1e-4
    assert model.weight[0].tolist() == pytest.approx([2, 0, 0, -1], abs=0.02)
    assert model.bias.item() == pytest.approx(0.5, abs=0.02)


def test_num_steps_follows_from_steps_or_epochs() -> None:
    assert config(steps=7).num_steps(1000) == 7
    assert config(steps=None, epochs=3).num_steps(10) == 9
    assert config(steps=None, epochs=0.5).num_steps(10) == 2
    assert config(steps=None, epochs=0.01).num_steps(10) == 1


@pytest.mark.parametrize("lengths", [{"steps": 3, "epochs": 1.0}, {"steps": None, "epochs": None}])
def test_config_requires_either_steps_or_epochs(lengths: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"both steps and epochs|neither steps nor epochs"):
        config(**lengths)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"lr_scheduler": "constant"}, [1, 1, 1, 1]),
        ({"lr_scheduler": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"lr_scheduler": "cosine"}, [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2]),
        ({"lr_scheduler": "linear", "warmup_ratio": 0.5}, [0.5, 1, 1, 0.5]),
        ({"lr_scheduler": "constant", "warmup_ratio": 1.0}, [0.25, 0.5, 0.75, 1]),
    ],
)
def test_learning_rate_follows_the_scheduler(settings: dict[str, object], rates: list[float]) -> None:
    actual = [config(learning_rate=2.0, **settings).learning_rate_at(step, 4) for step in range(4)]
    assert actual == pytest.approx([2 * rate for rate in rates])


def test_train_records_loss_and_rate_of_every_step() -> None:
    recorder, model = Kept(), Line()
    settings = config(steps=4, warmup_ratio=0.5)
    losses = train(
        ITEMS, model.loss, model.parameters, settings, seed=0, recorder=recorder, engine=InProcessEngine()
    )  # fmt: skip
    assert recorder.points["train/loss"] == list(enumerate(losses, 1))
    assert recorder.points["train/learning_rate"] == [(1, 0.025), (2, 0.05), (3, 0.05), (4, 0.025)]


def test_first_update_has_the_size_of_the_learning_rate() -> None:
    """Adam's first step has the size of the rate; weight decay applies to matrices only."""
    model = Line()
    model.bias.data.fill_(0.3)
    start, first = model.weight.detach().clone(), model.loss(ITEMS)
    first.backward()
    signs = model.weight.grad.sign(), model.bias.grad.sign()
    model.weight.grad = model.bias.grad = None
    fit(model, config(steps=1, batch_size=10, weight_decay=0.1, learning_rate=0.01, lr_scheduler="constant"))
    assert torch.allclose(model.weight, start * (1 - 0.01 * 0.1) - 0.01 * signs[0], atol=1e-6)
    assert torch.allclose(model.bias, 0.3 - 0.01 * signs[1], atol=1e-6)


def test_parts_have_their_own_learning_rates_on_one_schedule() -> None:
    """Adam's first step has the size of the rate of each part; the second is on the same schedule."""
    moved: dict[int, list[float]] = {}
    for steps in (1, 2):
        model = Line()
        start = {name: item.detach().clone() for name, item in model.parameters.items()}
        settings = config(
            steps=2, batch_size=10, weight_decay=0.0, learning_rate=0.01, learning_rates={"head": 0.04, "lora": 0.5}
        )
        train(
            ITEMS, model.loss, model.parameters, settings if steps == 2 else settings.model_copy(update={"steps": 1}),
            seed=0, recorder=NullRecorder(), engine=InProcessEngine(), groups={"weight": "prompt", "bias": "head"},
        )  # fmt: skip
        moved[steps] = [
            float((model.parameters[name] - start[name]).detach().abs().max()) for name in ("weight", "bias")
        ]
    assert moved[1] == pytest.approx([0.01, 0.04], rel=1e-3)
    assert moved[2] == pytest.approx([0.015, 0.06], rel=0.05), "the second step has half of each rate"


class NormsSeen(InProcessEngine):
    """Keeps the norm of the gradients of every update."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        grads = [item.grad.flatten() for group in optimizer.param_groups for item in group["params"]]
        self.norms.append(float(torch.cat(grads).norm()))
        super().optimizer_step(optimizer)


def test_gradients_are_clipped_to_the_maximum_norm() -> None:
    norms = {}
    for limit in (0.1, 1e6):
        model, engine, settings = Line(), NormsSeen(), config(max_grad_norm=limit, steps=3)
        train(ITEMS, model.loss, model.parameters, settings, seed=0, recorder=NullRecorder(), engine=engine)
        norms[limit] = engine.norms
    assert min(norms[1e6]) > 0.5
    assert norms[0.1] == pytest.approx([0.1] * 3, rel=1e-3)


def test_every_epoch_is_another_permutation() -> None:
    model = Line()
    fit(model, config(steps=None, epochs=2))
    assert [len(batch) for batch in model.seen] == [4, 4, 2, 4, 4, 2]
    first, second = ([item for batch in model.seen[i : i + 3] for item in batch] for i in (0, 3))
    assert sorted(first) == sorted(second) == ITEMS
    assert first != second != ITEMS


def test_order_follows_from_the_seed() -> None:
    orders = []
    for seed, noise in [(0, 1), (0, 2), (1, 1)]:
        torch.manual_seed(noise)
        model = Line()
        fit(model, config(), seed=seed)
        orders.append(model.seen)
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_dropout_follows_from_the_seed() -> None:
    losses = []
    for seed, noise in [(0, 1), (0, 2), (1, 1)]:
        torch.manual_seed(noise)
        losses.append(fit(Line(dropout=0.5), config(), seed=seed))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_loss_raises_an_error_with_step_and_item(value: float) -> None:
    model = Line()

    def loss(part: list[int], batch: list[int]) -> Tensor:
        return model.loss(part, batch) * (value if len(model.seen) == 4 else 1.0)

    with pytest.raises(DivergedError) as caught:
        fit(model, config(), loss=loss)
    assert f"became {value} at step 4 of 12" in caught.value.problem
    assert f"starts with {model.seen[3][0]}." in caught.value.problem
    assert "learning_rate (now 0.05)" in caught.value.remedy
    assert len(model.seen) == 4


def test_nonfinite_gradient_raises_an_error() -> None:
    model = Line()

    def loss(part: list[int], batch: list[int]) -> Tensor:
        return model.loss(part, batch) + (model.bias * 0).sqrt().sum()  # 0 with an infinite gradient

    with pytest.raises(DivergedError, match="norm of the gradients became nan at step 1 of 12"):
        fit(model, config(), loss=loss)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_micro_batches_add_up_to_the_batch(size: int) -> None:
    full, split = Line(), Line()
    expected = fit(full, config())
    actual = fit(split, config(micro_batch_size=size))
    assert actual == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(split.weight, full.weight, atol=1e-6, rtol=0)
    assert max(len(batch) for batch in split.seen) == min(size, 4)
    assert [item for batch in split.seen for item in batch] == [item for batch in full.seen for item in batch]


class WeightsSeen(InProcessEngine):
    """Keeps the weights after every update."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().optimizer_step(optimizer)
        self.weights.append(optimizer.param_groups[0]["params"][0].detach().clone())


@pytest.mark.parametrize(("fraction", "num_averaged"), [(0.0, 1), (0.01, 1), (0.25, 3), (0.5, 6), (0.99, 12)])
def test_weights_are_the_mean_over_the_last_steps(fraction: float, num_averaged: int) -> None:
    model, engine, settings = Line(), WeightsSeen(), config(average_last=fraction)
    losses = train(ITEMS, model.loss, model.parameters, settings, seed=0, recorder=NullRecorder(), engine=engine)
    assert len(engine.weights) == 12
    expected = torch.stack(engine.weights[-num_averaged:]).mean(dim=0)
    torch.testing.assert_close(model.weight.detach(), expected, atol=1e-6, rtol=0)
    assert losses == fit(Line(), config()), "the average does not change the training"


def test_averaged_weights_exclude_early_stopping() -> None:
    with pytest.raises(ValueError, match=r"early_stopping keeps those of the best step"):
        config(average_last=0.5, early_stopping={})


def epoch_of(sampler: LengthGroupedSampler, first: int, steps: int) -> list[list[int]]:
    return [list(sampler(step)) for step in range(first, first + steps)]


def test_length_grouped_sampler_returns_every_item_once_per_epoch() -> None:
    sampler = LengthGroupedSampler([7 * number % 50 for number in range(50)], batch_size=8, seed=3)
    first, second = epoch_of(sampler, 0, 7), epoch_of(sampler, 7, 7)
    for epoch in (first, second):
        assert sorted(item for batch in epoch for item in batch) == list(range(50))
        assert sorted(len(batch) for batch in epoch) == [2, 8, 8, 8, 8, 8, 8]
    assert first != second


def test_length_grouped_sampler_follows_from_the_seed_and_the_step() -> None:
    lengths = [7 * number % 50 for number in range(50)]
    one, other = (LengthGroupedSampler(lengths, 8, seed) for seed in (3, 4))
    first = epoch_of(one, 0, 7)
    assert first != epoch_of(other, 0, 7)
    assert one(30) == LengthGroupedSampler(lengths, 8, 3)(30), "a resumed run needs no earlier steps"
    assert epoch_of(one, 0, 7) == first


def test_length_grouped_sampler_groups_similar_lengths_in_random_order() -> None:
    lengths = [7919 * number % 1000 for number in range(1000)]
    sampler = LengthGroupedSampler(lengths, batch_size=10, seed=0)
    batches = epoch_of(sampler, 0, 100)
    ranges = [max(lengths[item] for item in batch) - min(lengths[item] for item in batch) for batch in batches]
    assert sum(ranges) / len(ranges) < 100, "random batches have a range of about 800"
    means = [sum(lengths[item] for item in batch) / len(batch) for batch in batches]
    assert means != sorted(means)
    assert max(abs(sum(means[start : start + 20]) / 20 - 500) for start in (0, 20, 40, 60, 80)) < 200


def test_early_stopping_keeps_the_best_parameters() -> None:
    curves = Kept()
    model, uninterrupted = Line(), Line()
    evaluations = DevEvaluations((0.5, 1.0), (0.8, 0.9), (0.8, 0.95), (0.7, 0.1))
    losses = fit(model, stopping(), validate=evaluations, recorder=curves)
    assert len(losses) == 8, "two evaluations without improvement"
    assert curves.points["dev/accuracy"] == [(2, 0.5), (4, 0.8), (6, 0.8), (8, 0.7)]
    assert curves.points["dev/best_step"] == [(0, 4)]

    def stop_after_four_steps(part: list[int], batch: list[int]) -> Tensor:
        if len(uninterrupted.seen) == 4:
            raise KeyboardInterrupt
        return uninterrupted.loss(part, batch)

    with pytest.raises(KeyboardInterrupt):
        fit(uninterrupted, config(steps=20), loss=stop_after_four_steps)
    assert torch.equal(model.weight, uninterrupted.weight), "the parameters of the best evaluation are kept"


def test_early_stopping_compares_losses_of_equal_accuracy() -> None:
    curves = Kept()
    evaluations = DevEvaluations((1.0, 0.9), (1.0, 0.5), (1.0, 0.7), (1.0, 0.4), (1.0, 0.6), (1.0, 0.6))
    fit(Line(), stopping(), validate=evaluations, recorder=curves)
    assert curves.points["dev/best_step"] == [(0, 8)]


def test_last_step_is_always_evaluated() -> None:
    curves = Kept()
    settings = config(steps=3, early_stopping={"eval_steps": 2, "patience": 2})
    fit(Line(), settings, validate=DevEvaluations((0.5, 1.0), (0.6, 1.0)), recorder=curves)
    assert curves.points["dev/accuracy"] == [(2, 0.5), (3, 0.6)]


def test_early_stopping_requires_a_dev_set() -> None:
    with pytest.raises(InputError, match="requires a dev set") as caught:
        fit(Line(), stopping())
    assert "data.dev_shots" in caught.value.problem
