"""Signals at initialization: growth per layer and per block as predicted, on digits and in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batchnorm.lab.questions.propagation import (
    IDENTITY_ROWS,
    LIMIT,
    RELU_ROWS,
    SLOPE,
    identity_growth,
    relu_growth,
)


def test_propagation_on_digits_is_as_predicted_with_every_seed(carried_out):
    """2 % where the formula is that of the batch size, 5 % where it is a limit."""
    record = carried_out("propagation", quick=True)
    assert record.verdict == "holds"
    relu, identity = record.numbers.at("ReLU", RELU_ROWS), record.numbers.at("identity", IDENTITY_ROWS)
    assert len(relu) == 3
    np.testing.assert_allclose(relu, math.pi / (math.pi - 1), rtol=0.05)
    np.testing.assert_allclose(relu, relu_growth(RELU_ROWS), rtol=0.02)
    np.testing.assert_allclose(identity, (IDENTITY_ROWS - 2) / (IDENTITY_ROWS - 3), rtol=0.02)
    slopes = [(path[-1] - path[0]) / (len(path) - 1) for path in record.numbers.variance]
    np.testing.assert_allclose(slopes, 1 - 1 / math.pi, rtol=0.05)


def test_without_normalization_gradients_keep_their_size_and_residual_sums_double(carried_out):
    numbers = carried_out("propagation", quick=True).numbers
    for path in (*numbers.profile["ReLU without"], *numbers.profile["identity without"]):
        assert abs(math.log(path[0])) / len(path) < 0.1 * math.log(1.2)
    for path in numbers.variance_plain:
        assert (path[-1] / path[0]) ** (1 / (len(path) - 1)) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("rows", "relu"), [(64, True), (16, True), (16, False)])
def test_formulas_agree_with_a_network_of_numpy(rows, relu, seed):
    predicted = relu_growth(rows) if relu else identity_growth(rows)
    assert _growth(np.random.default_rng(seed), rows, relu) == pytest.approx(predicted, rel=0.03)


def test_limits_are_those_of_large_batches():
    assert relu_growth(10**8) == pytest.approx(LIMIT, rel=1e-6)
    assert identity_growth(10**8) == pytest.approx(1.0, rel=1e-6)
    z = np.random.default_rng(0).normal(size=10**6)
    assert 2 * np.maximum(z, 0).var() == pytest.approx(SLOPE, rel=0.01)


def _growth(random, rows, relu, width=400, depth=40):
    """Geometric mean of the squared gradient's growth per layer, forward and backward written out."""
    a, kept = random.normal(size=(rows, width)), []
    for _ in range(depth):
        weight = random.normal(size=(width, width)) / math.sqrt(width)
        z = a @ weight
        deviation = z.std(0)
        centred = (z - z.mean(0)) / deviation
        kept.append((weight, deviation, centred))
        a = np.maximum(centred, 0) if relu else centred
    gradient, squares = random.normal(size=a.shape), []
    for weight, deviation, centred in reversed(kept):
        gradient = gradient * (centred > 0) if relu else gradient
        gradient = (gradient - gradient.mean(0) - centred * (gradient * centred).mean(0)) / deviation
        squares.append((gradient**2).sum())
        gradient = gradient @ weight.T
    return (squares[-1 - depth // 5] / squares[0]) ** (1 / (depth - 1 - depth // 5))


def test_residual_sum_without_normalization_begins_to_grow_by_less_than_two_and_ends_nearly_there(carried_out):
    """The page said that each block doubles the variance, beside a tenth of what fifty doublings make."""
    for path in carried_out("propagation", quick=True).numbers.variance_plain:
        assert path[1] / path[0] == pytest.approx(2 - 1 / math.pi, rel=0.05)
        assert 1.9 < path[-1] / path[-2] < 2.1
