"""Running averages do what the batch did; a row alone has no statistics; averages err as their momentum says."""

from __future__ import annotations

import numpy as np
import torch

from batchnorm.lab.population import with_population
from batchnorm.lab.questions.test_time import own_scores
from batchnorm.lab.trial import PAPER, Trial


def test_test_time_on_digits_running_averages_are_as_good_as_large_batches(carried_out):
    record = carried_out("test_time", quick=True)
    assert record.verdict == "holds"
    worse, better = record.effects[:2]
    assert max(worse.values) <= 0.02
    assert min(better.values) > 0.5
    by_size = np.array(record.numbers.own)
    assert (by_size[:, 0] < 0.2).all()  # one row: the same scores for all
    assert (by_size[:, 2] < by_size[:, 6] - 0.05).all()  # 4 rows against 64


def test_average_after_few_steps_remembers_its_start_and_a_large_momentum_the_last_batch(carried_out):
    numbers = carried_out("test_time", quick=True).numbers
    error = {momentum: np.mean(paths, axis=0) for momentum, paths in numbers.mean_error.items()}
    assert error[0.001][-1] > 10 * error[0.1][-1]
    assert error[1.0][-1] > 1.5 * error[0.1][-1]
    assert error[1.0][0] < 0.5 * error[0.001][0]


def test_statistics_by_hand_are_those_of_numpy(digits):
    trial = Trial(digits.of(0), PAPER, dtype=torch.float64)
    for _ in trial.steps(20):
        pass
    x = trial.test.x[:32]
    a = x.numpy()
    for layer in trial.layers:
        z = a @ layer.linear.weight.detach().numpy().T
        gamma, beta = layer.norm.weight.detach().numpy(), layer.norm.bias.detach().numpy()
        a = 1 / (1 + np.exp(-(gamma * (z - z.mean(0)) / np.sqrt(z.var(0) + layer.norm.eps) + beta)))
    with torch.no_grad():
        scores = own_scores(trial, x)
        alone = own_scores(trial, x[:1])
        assert torch.equal(alone, own_scores(trial, x[1:2]))
    head = trial.network.head
    np.testing.assert_allclose(scores, a @ head.weight.detach().numpy().T + head.bias.detach().numpy(), atol=1e-10)
    with_population(trial)
    first = trial.train.x.numpy() @ trial.layers[0].linear.weight.detach().numpy().T
    np.testing.assert_allclose(trial.norms[0].running_mean, first.mean(0), atol=1e-10)
