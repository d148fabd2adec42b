"""Twenty sigmoid layers train with normalization and do not without."""

from __future__ import annotations

from batchnorm.lab import Material
from batchnorm.lab.questions.depth import _most_frequent


def test_depth_on_digits_twenty_sigmoid_layers_train_with_normalization_alone(carried_out):
    record = carried_out("depth", quick=True)
    normalized, plain, *_ = record.effects
    assert record.verdict == "holds"
    assert (normalized.asked, plain.asked) == (0.9, 0.3)
    assert min(normalized.values) >= 0.9
    assert max(plain.values) < 0.3
    assert min(record.numbers.accuracy["sigmoid without"][0]) > 0.5  # two layers do train


def test_depth_asks_less_than_a_guess_of_nobody():
    """Of wines the most frequent third is 40 %: a network that learns nothing is right as often."""
    data = Material("wine").of(0)
    assert 0.35 < _most_frequent(data) < 0.45
