"""What enters the activations is far steadier with normalization; the gradients are not: both are reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from batchnorm.lab.covariate_shift import covariate_shift
from batchnorm.lab.trial import PAPER, Trial


def test_drift_on_digits_distributions_are_steadier(carried_out):
    mean, percentiles, variance, *_ = carried_out("drift", quick=True).effects
    assert min(mean.values) > 20
    assert min(percentiles.values) > 5
    assert min(variance.values) > 2


def test_drift_on_digits_internal_covariate_shift_is_reported_as_failing(carried_out):
    """Santurkar et al. 2018: by their definition normalization does not reduce it."""
    record = carried_out("drift", quick=True)
    shift = record.effects[3]
    assert max(shift.values) < 0.8
    assert shift.verdict == "does not hold here"
    assert record.verdict == "does not hold here"


def test_drift_normalized_z_has_mean_0_and_variance_1_whatever_w_does(carried_out):
    *_, off, grown = carried_out("drift", quick=True).effects
    assert max(off.values) < 0.01
    assert min(grown.values) > 1.01


def test_covariate_shift_of_one_hidden_layer_is_that_of_the_formulas(digits):
    """By NumPy: sigmoid, softmax, cross-entropy; what is looked at stays as it was."""
    trial = Trial(digits.of(0), replace(PAPER, hidden=(30,), norm=None, seed=0), dtype=torch.float64)
    before = {name: t.clone() for name, t in trial.network.state_dict().items()}
    rows = trial.batch(60, seed=1)
    found = covariate_shift(trial, rows)
    for name, t in trial.network.state_dict().items():
        assert torch.equal(t, before[name])
    x, one_hot = rows.x.numpy(), np.eye(10)[rows.y.numpy()]
    linear, head = trial.layers[0].linear, trial.network.head
    w, b, v, c = (t.detach().numpy() for t in (linear.weight, linear.bias, head.weight, head.bias))

    def gradients(w, b):
        a = 1 / (1 + np.exp(-(x @ w.T + b)))
        scores = a @ v.T + c
        chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        error = (chances - one_hot) / 60
        through = (error @ v) * a * (1 - a)
        return error.T @ a, through.T @ x, through.sum(0)

    g, dw, db = gradients(w, b)
    changed, *_ = gradients(w - 0.5 * dw, b - 0.5 * db)
    apart = np.linalg.norm(g - changed)
    np.testing.assert_allclose(found.difference, [apart], rtol=1e-9)
    np.testing.assert_allclose(found.relative, [apart / np.linalg.norm(g)], rtol=1e-9)
    cosine = (g * changed).sum() / np.linalg.norm(g) / np.linalg.norm(changed)
    np.testing.assert_allclose(found.cosine, [cosine], rtol=1e-9)
