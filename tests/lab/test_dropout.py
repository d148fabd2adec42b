"""Dropout before normalization: the variance at test time is smaller by what the masks' law says."""

from __future__ import annotations

import numpy as np
import pytest

from batchnorm.lab.questions.dropout import ASKED


def test_dropout_on_digits_shifts_the_variance_as_predicted_with_every_seed(carried_out):
    record = carried_out("dropout", quick=True)
    numbers = record.numbers
    assert record.verdict == "holds"
    assert np.shape(numbers.linear) == (len(numbers.shares), 3)
    np.testing.assert_allclose(numbers.linear, numbers.linear_predicted, rtol=ASKED)
    np.testing.assert_allclose(numbers.direct, numbers.direct_predicted, rtol=ASKED)
    assert np.max(numbers.linear) < 0.9
    assert np.max(np.diff(numbers.linear, axis=0)) < 0  # more dropout, more shift


def test_dropout_on_digits_leaves_the_first_layer_and_reaches_all_others(carried_out):
    for ratios in carried_out("dropout", quick=True).numbers.layers:
        assert ratios[0] == pytest.approx(1.0, abs=1e-9)
        assert max(ratios[1:]) < 0.9


def test_dropout_on_digits_statistics_without_masks_lower_the_loss(carried_out):
    numbers = carried_out("dropout", quick=True).numbers
    assert np.max(np.mean(numbers.loss_measured, axis=1) - np.mean(numbers.loss_running, axis=1)) < 0


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_both_laws_agree_with_masks_drawn_by_numpy(seed, share):
    """Values that hang together, so that a law which took them for independent would fail."""
    random = np.random.default_rng(seed)
    a = 1 / (1 + np.exp(-random.normal(size=(200_000, 3)) @ random.normal(size=(3, 8))))
    w = random.normal(size=8)
    dropped = a * (random.random(a.shape) >= share) / (1 - share)
    c, v = a.mean(0), a.var(0)
    np.testing.assert_allclose(dropped.var(0), (c**2 + v) / (1 - share) - c**2, rtol=ASKED)
    predicted = (a @ w).var() + share / (1 - share) * (w**2 @ (a**2).mean(0))
    assert (dropped @ w).var() == pytest.approx(predicted, rel=ASKED)
