"""Gamma = sqrt(sigma2 + eps), beta = mu: the network computes what it computes without normalization."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from batchnorm.lab.questions.identity import SAME, undo
from batchnorm.lab.trial import PAPER, Trial


def test_identity_on_digits_gives_the_scores_without_normalization(carried_out):
    record = carried_out("identity", quick=True)
    exact, gamma, beta, *_ = record.effects
    assert record.verdict == "holds"
    assert len(exact.values) == 3
    assert max(exact.values) <= SAME
    assert min(gamma.values) > 0.01
    assert min(beta.values) > 0.001


def test_undone_network_is_affine_maps_and_sigmoids_alone(digits):
    """By NumPy, which knows nothing of any layer."""
    trial = Trial(digits.of(0), replace(PAPER, seed=0), dtype=torch.float64)
    undo(trial)
    trial.network.eval()
    a = trial.train.x.numpy()
    for layer in trial.layers:
        a = 1 / (1 + np.exp(-a @ layer.linear.weight.detach().numpy().T))
    head = trial.network.head
    scores = a @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(trial.network.body(trial.train.x).detach().numpy(), scores, rtol=0, atol=1e-12)
