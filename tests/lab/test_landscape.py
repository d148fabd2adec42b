"""Along the step the loss and its gradient vary several times less with normalization."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from batchnorm.lab import Material
from batchnorm.lab.along_the_step import AHEAD, look
from batchnorm.lab.bench import Bench
from batchnorm.lab.questions.landscape import BASE, measure
from batchnorm.lab.trial import Trial
from batchnorm.lab.watch import Watch


def test_landscape_on_digits_the_loss_ranges_less_and_the_gradient_changes_less(carried_out):
    record = carried_out("landscape", quick=True)
    loss, change, *_ = record.effects
    assert record.numbers.at == (0.3, 0.3, 0.3)
    assert record.verdict == "holds"
    assert min(loss.values) >= 5
    assert min(change.values) >= 3


def test_look_at_a_linear_model_is_what_the_quadratic_says(digits):
    """Of softmax regression by NumPy, which differentiates nothing; and everything is put back."""
    settings = replace(BASE, hidden=(), norm=None, seed=0, learning_rate=0.1)
    trial = Trial(digits.of(0), settings, dtype=torch.float64)
    before = {name: t.clone() for name, t in trial.network.state_dict().items()}
    found = look(trial, 60, seed=7)
    for name, t in trial.network.state_dict().items():
        assert torch.equal(t, before[name])
    rows = trial.batch(60, seed=7)
    x = np.c_[rows.x.numpy(), np.ones(60)]
    one_hot = np.eye(10)[rows.y.numpy()]
    w = np.c_[before["head.weight"].numpy(), before["head.bias"].numpy()]

    def loss_and_gradient(at):
        scores = x @ at.T
        chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        return -np.log(chances[one_hot == 1]).mean(), (chances - one_hot).T @ x / 60

    start, gradient = loss_and_gradient(w)
    there = [loss_and_gradient(w - 0.1 * a * gradient) for a in AHEAD]
    losses = [start, *(loss for loss, _ in there)]
    changes = [np.linalg.norm(g - gradient) for _, g in there]
    smoothness = max(c / (0.1 * a * np.linalg.norm(gradient)) for c, a in zip(changes, AHEAD, strict=True))
    np.testing.assert_allclose(found, (max(losses) - min(losses), max(changes), smoothness), rtol=1e-9)


def test_landscape_where_no_rate_trains_both_networks_compares_nothing():
    """Two steps are too few for either: nothing may be said, and the page can still be drawn."""
    bench = Bench(Material("wine"), (0, 1, 2), True, Watch())
    outcome = measure(bench, steps=2)
    assert outcome.effects[0].verdict == "undecided"
    assert outcome.finding == "With 3 of 3 seeds no rate of 0.3 trains both networks"
    assert [chart.title for chart in outcome.charts] == ["Where both networks train"]
