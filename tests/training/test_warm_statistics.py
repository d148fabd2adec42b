"""Running statistics that begin with the first batches instead of with mean 0 and variance 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from batchnorm.training.assemble import assemble, carry_on
from batchnorm.training.examples import Examples
from batchnorm.training.run import Run
from batchnorm.training.settings import Settings

ROWS = 40


def run(**choice: object) -> Run:
    """A run that cannot learn: every batch of all rows has the same statistics."""
    random = np.random.default_rng(2)
    examples = Examples(random.normal(5, 3, (ROWS, 4)), random.integers(0, 2, ROWS))
    settings = Settings(hidden=(6, 3), batch_size=ROWS, learning_rate=1e-12, input_norm=False, **choice)  # type: ignore[arg-type]
    return assemble(examples, None, settings, task="classification", outputs=2, dtype=torch.float64).run


def of_first_layer(taken: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Running mean and variance, less what the rows really have."""
    z = taken.network.layers[0].linear(taken.train.x).detach()
    norm = taken.network.layers[0].norm
    return norm.running_mean - z.mean(0), norm.running_var - z.var(0)


@pytest.mark.parametrize("steps", [1, 3, 30])
def test_warm_statistics_are_those_of_the_rows_from_the_first_step_on(steps: int) -> None:
    taken = run(warm_statistics=True)
    for _ in range(steps):
        taken.step()
    for error in of_first_layer(taken):
        assert float(error.abs().max()) < 1e-6


def test_cold_statistics_still_remember_their_start_after_ten_steps() -> None:
    taken = run()
    for _ in range(10):
        taken.step()
    assert float(of_first_layer(taken)[0].abs().max()) > 0.1


def test_warm_statistics_average_plainly_then_exponentially() -> None:
    taken = run(warm_statistics=True, momentum=0.25)
    batches = [
        torch.full((ROWS, 4), float(k)) + torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(k))
        for k in range(9)
    ]
    means = []
    for batch in batches:
        taken.train.x.copy_(batch)
        taken.step()
        means.append(taken.network.layers[0].linear(batch.double()).mean(0).detach())
    expected = means[0]
    for k, mean in enumerate(means[1:], start=2):
        expected = expected + max(0.25, 1 / k) * (mean - expected)
    torch.testing.assert_close(taken.network.layers[0].norm.running_mean, expected, atol=1e-9, rtol=0)


def test_momentum_zero_is_left_alone() -> None:
    taken = run(warm_statistics=True, momentum=0.0)
    taken.step()
    assert not taken.network.layers[0].norm.running_mean.any()


def test_statistics_of_a_network_trained_before_are_warm_already() -> None:
    taken = run(warm_statistics=True, momentum=0.25)
    for _ in range(4):
        taken.step()
    before = taken.network.layers[0].norm.running_mean.clone()
    further = Examples(taken.train.x.numpy() + 1, taken.train.y.numpy())
    again = carry_on(taken.network, (0.0, 1.0), further, None, taken.settings, task="classification").run
    again.step()
    mean = again.network.layers[0].linear(again.train.x).mean(0).detach()
    torch.testing.assert_close(
        again.network.layers[0].norm.running_mean, before + 0.25 * (mean - before), atol=1e-9, rtol=0
    )
