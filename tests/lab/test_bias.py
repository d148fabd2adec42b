"""A bias before normalization: its gradient is 0, and it changes nothing."""

from __future__ import annotations

from batchnorm.lab import Experiment
from batchnorm.lab.questions.bias import ROUNDING


def test_bias_on_digits_has_no_gradient_and_changes_no_answer(carried_out):
    record = carried_out("bias", quick=True)
    share, apart, plain = record.effects
    assert record.verdict == "holds"
    assert len(share.values) == 3
    assert max(share.values) <= ROUNDING
    assert apart.values == (0.0, 0.0, 0.0)
    assert max(record.numbers.bias_moved) < 1e-14
    assert min(plain.values) > 0.05  # the same measurement sees a bias that matters
    assert record.numbers.metric_with_bias == record.numbers.metric_without_bias


def test_accuracies_that_are_equal_are_said_to_be_with_any_number_of_seeds():
    """With one seed, which decides nothing, it said "0 apart"."""
    assert "test accuracy is the same with and without b" in Experiment("bias")("wine", seeds=1, quick=True).finding
