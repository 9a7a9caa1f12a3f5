"""Tests of the distillation loss."""

from __future__ import annotations

import math

import pytest
import torch

from stages.distillation.stage import distillation_loss


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_distillation_loss_is_the_kl_divergence_of_softened_distributions(temperature: float) -> None:
    teacher, student = [[2.0, -1.0, 0.5], [0.0, 3.0, 3.0]], [[1.0, 1.0, -2.0], [0.1, -0.2, 4.0]]
    total = 0.0
    for goal, guess in zip(teacher, student, strict=True):
        p, q = (
            [math.exp(value / temperature) / sum(math.exp(item / temperature) for item in row) for value in row]
            for row in (goal, guess)
        )
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert float(found) == pytest.approx(temperature**2 * total / 2, rel=1e-5)


def test_distillation_loss_ignores_a_constant() -> None:
    teacher = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    assert float(distillation_loss(teacher + 5, teacher, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(-teacher, teacher, 2.0)) > 0.5
