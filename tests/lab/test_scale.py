"""The weights' scale: the gradient stands at right angles to the weights and is inversely proportional to them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from batchnorm.lab.questions.scale import NO_EPS, ROUNDING
from batchnorm.lab.trial import PAPER, Trial


def test_scale_on_digits_laws_hold_to_rounding_with_every_seed(carried_out):
    record = carried_out("scale", quick=True)
    cosine, apart, pythagoras, *_ = record.effects
    assert record.verdict == "holds"
    for effect in (cosine, apart, pythagoras):
        assert len(effect.values) == 3
        assert max(effect.values) <= ROUNDING


def test_scale_on_digits_the_same_measurement_sees_where_the_laws_do_not_hold(carried_out):
    numbers = carried_out("scale", quick=True).numbers
    assert min(numbers.cosine_plain) > 0.1
    assert min(numbers.cosine_usual_eps) > 1e-6  # an eps of 1e-5 is no rounding
    for sizes, plain in zip(numbers.size, numbers.size_plain, strict=True):
        np.testing.assert_allclose(sizes, 1 / np.array(numbers.factors), rtol=ROUNDING)
        assert abs(plain[-1] * numbers.factors[-1] - 1) > 0.5


def test_effective_rates_from_other_scales_fall_and_draw_nearer(carried_out):
    rates = carried_out("scale", quick=True).numbers.rate
    for run in (run for runs in rates.values() for run in runs):
        assert all(after < before for before, after in pairwise(run))
    for small, large in zip(rates["0.03"], rates["1"], strict=True):
        assert small[-1] / large[-1] < 0.8 * small[0] / large[0]


@pytest.mark.parametrize("factor", [0.01, 7.0, 100.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_in_scaled_weights_is_that_of_a_loss_that_numpy_knows(digits, seed, factor):
    """A step along the gradient at a W must change the loss as the same step, times a^2, does at W."""
    trial = Trial(digits.of(seed), replace(PAPER, eps=NO_EPS, seed=seed), dtype=torch.float64)
    rows = trial.batch(100, seed=seed)
    weights = [layer.linear.weight.detach().numpy() for layer in trial.layers]
    first = torch.autograd.grad(trial.loss(rows), [trial.layers[0].linear.weight])[0].numpy()
    step = 0.1 * first
    here = _loss(trial, rows, [weights[0] - step, *weights[1:]])
    there = _loss(trial, rows, [factor * weights[0] - factor**2 * step / factor, *weights[1:]])
    np.testing.assert_allclose(there, here, rtol=1e-12)
    assert abs(here - _loss(trial, rows, weights)) > 1e-6
    with torch.no_grad():
        trial.layers[0].linear.weight.mul_(factor)
    scaled = torch.autograd.grad(trial.loss(rows), [trial.layers[0].linear.weight])[0].numpy()
    np.testing.assert_allclose(factor * scaled, first, atol=ROUNDING * abs(first).max())


def _loss(trial, rows, weights):
    """Cross-entropy of the network with these hidden weights, gamma = 1 and beta = 0, in NumPy alone."""
    a = rows.x.numpy()
    for weight in weights:
        z = a @ weight.T
        a = 1 / (1 + np.exp(-(z - z.mean(0)) / z.std(0)))
    scores = a @ trial.network.head.weight.detach().numpy().T + trial.network.head.bias.detach().numpy()
    scores -= scores.max(1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    return -logs[np.arange(len(logs)), rows.y.numpy()].mean()
