"""Twenty sigmoid layers train with normalization and do not without."""

from __future__ import annotations


def test_depth_on_digits_twenty_sigmoid_layers_train_with_normalization_alone(carried_out):
    record = carried_out("depth", quick=True)
    normalized, plain, *_ = record.effects
    assert record.verdict == "holds"
    assert min(normalized.values) >= 0.9
    assert max(plain.values) < 0.3
    assert min(record.numbers.accuracy["sigmoid without"][0]) > 0.5  # two layers do train
