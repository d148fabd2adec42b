"""What recalibration is worth on digits: much after tiny training batches, nothing after usual ones."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from tests.statistics.networks import SEEDS, accuracy, batches, digits, perceptron, trained, usual
from torch import nn

from batchnorm import recalibrate


def _before_and_after(make: Callable[[int], nn.Module]) -> list[tuple[float, float]]:
    found = []
    for seed in SEEDS:
        data, model = digits(seed), copy.deepcopy(make(seed))
        before = accuracy(model, data.test_x, data.test_y)
        recalibrate(model, list(batches(data.x, 4)))
        found.append((before, accuracy(model, data.test_x, data.test_y)))
    return found


def _by_tiny_batches(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return trained(perceptron(6, 64, "relu"), digits(seed), batch=4, epochs=5)


def _mean_gain(found: list[tuple[float, float]]) -> float:
    return sum(after - before for before, after in found) / len(found)


def test_after_training_batches_of_4_recalibration_gains_8_points_at_least() -> None:
    found = _before_and_after(_by_tiny_batches)
    assert _mean_gain(found) >= 8, found


def test_after_training_batches_of_32_recalibration_changes_half_a_point_at_most() -> None:
    found = _before_and_after(lambda seed: usual(seed, "relu"))
    assert abs(_mean_gain(found)) <= 0.5, found
