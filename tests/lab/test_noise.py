"""Statistics of mini-batches: their noise as predicted, and a smaller gap where there is more of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from batchnorm.lab.batch_noise import relative_variance
from batchnorm.lab.questions.noise import SIZES
from batchnorm.lab.record import verdict_of

WITHIN = 0.05


def test_noise_on_digits_follows_both_laws_with_every_seed(carried_out):
    record = carried_out("noise", quick=True)
    numbers = record.numbers
    assert len(numbers.mean_std) == 3
    for mean_std, variance, formula, leading in zip(
        numbers.mean_std, numbers.variance, numbers.formula, numbers.leading, strict=True
    ):
        np.testing.assert_allclose(mean_std, 1 / np.sqrt(SIZES), rtol=WITHIN)
        np.testing.assert_allclose(variance, formula, rtol=WITHIN)
        np.testing.assert_allclose(variance[-3:], leading[-3:], rtol=WITHIN)
        assert abs(variance[0] / leading[0] - 1) > 0.3  # two rows are far from many
    assert all(effect.verdict == "holds" for effect in record.effects[:3])


def test_noise_on_digits_narrows_the_gap_of_relu(carried_out):
    record = carried_out("noise", quick=True)
    assert record.effects[3].mean < -0.005
    assert record.verdict == verdict_of(record.effects)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rows", [2, 3, 10])
@pytest.mark.parametrize(("draw", "kurtosis"), [("normal", 3.0), ("uniform", 1.8), ("laplace", 6.0)])
def test_formula_agrees_with_numpy_on_known_distributions(draw, kurtosis, rows, seed):
    values = getattr(np.random.default_rng(seed), draw)(size=(200_000, rows))
    variance = {"normal": 1.0, "uniform": 1 / 12, "laplace": 2.0}[draw]
    expected = float(relative_variance(torch.tensor(kurtosis, dtype=torch.float64), rows))
    assert (values.var(axis=1) / variance).var() == pytest.approx(expected, rel=WITHIN)
