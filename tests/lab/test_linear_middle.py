"""With gamma and beta fixed z stays within two standard deviations; learnt ones leave them."""

from __future__ import annotations

import numpy as np


def test_linear_middle_on_digits_fixed_stays_and_learnt_leaves(carried_out):
    record = carried_out("linear_middle", quick=True)
    sigmoid, less, _, tanh, *_ = record.effects
    assert record.verdict == "holds"
    assert min(sigmoid.values) >= 0.95
    assert min(tanh.values) >= 0.95
    assert min(less.values) > 0.02


def test_linear_middle_densities_add_up_to_one(carried_out):
    numbers = carried_out("linear_middle", quick=True).numbers
    width = numbers.at[1] - numbers.at[0]
    for density in numbers.density.values():
        np.testing.assert_allclose(sum(density) * width, 1.0, atol=1e-6)
