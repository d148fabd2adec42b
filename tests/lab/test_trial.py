"""A trial: the trainer's own steps under the experimenter's hand."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from batchnorm.lab.trial import MOST_JUDGED, PAPER, Trial, _some, twins


def test_gradients_between_two_steps_are_autograds_of_the_weights_before(digits):
    """The step just made left its gradients; autograd on a copy of the network before that step agrees."""
    first, second = (Trial(digits.of(0), PAPER, dtype=torch.float64) for _ in range(2))
    next(first.steps(1))
    rows = first.run._order
    assert rows is not None
    batch = rows[1][:60]
    loss = F.cross_entropy(second.network.body(second.train.x[batch]), second.train.y[batch])
    expected = torch.autograd.grad(loss, [layer.linear.weight for layer in second.layers])
    for layer, gradient in zip(first.layers, expected, strict=True):
        torch.testing.assert_close(layer.linear.weight.grad, gradient, rtol=1e-9, atol=1e-12)


def test_twins_share_weights_and_rows(digits):
    ours, theirs = (Trial(digits.of(1), replace(settings, seed=1)) for _, settings in twins(PAPER))
    assert len(ours.norms) == 3
    assert theirs.norms == []
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(a.linear.weight, b.linear.weight)
    assert torch.equal(ours.train.x, theirs.train.x)


def test_what_is_changed_in_place_between_two_steps_is_what_the_next_starts_from(digits):
    trial = Trial(digits.of(0), PAPER)
    for _ in trial.steps(3):
        trial.norms[0].weight.data.fill_(1.0)
    next(trial.steps(1))
    gamma, slope = trial.norms[0].weight.detach(), trial.norms[0].weight.grad
    torch.testing.assert_close(gamma, 1.0 - PAPER.rate * slope)


def test_network_that_diverged_is_not_finite_and_judged_all_wrong(digits):
    trial = Trial(digits.of(0), replace(PAPER, norm=None, activation="relu", weight_scale=1.0, learning_rate=1000.0))
    assert trial.is_finite
    for _ in trial.steps(30):
        pass
    assert not trial.is_finite
    assert trial.judge()[1] == 0.0


def test_batch_of_a_seed_is_the_same_rows(digits):
    trial = Trial(digits.of(0), PAPER)
    assert torch.equal(trial.batch(10, seed=3).x, trial.batch(10, seed=3).x)
    assert not torch.equal(trial.batch(10, seed=3).x, trial.batch(10, seed=4).x)
    assert len(trial.batch(10**6)) == len(trial.train)


def test_at_most_so_many_rows_judge():
    assert len(_some(10**5, 0)) == len(set(_some(10**5, 0))) == MOST_JUDGED
    assert _some(5, 0) == [0, 1, 2, 3, 4]
