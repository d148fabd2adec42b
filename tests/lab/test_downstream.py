"""Changes of the first layer as the last one meets them: scale is taken away, a random change is not."""

from __future__ import annotations

import math

import numpy as np

from batchnorm.lab.questions.downstream import CHANGES


def test_downstream_on_digits_scale_of_the_first_layer_does_not_matter_with_normalization(carried_out):
    numbers = carried_out("downstream", quick=True).numbers
    assert np.shape(numbers.moved["with scale"]) == (3, len(CHANGES))
    assert np.max(numbers.moved["with scale"]) < 1e-5  # eps, and rounding in float32
    assert np.max(np.abs(numbers.rise["with scale"])) < 1e-5
    assert np.min(np.array(numbers.moved["without scale"])[:, CHANGES.index(0.1) :]) > 0.02
    assert np.min(np.abs(np.array(numbers.rise_old["with scale"])[:, -1])) > 1e-3  # old statistics leave the change in


def test_downstream_on_digits_random_changes_reach_further_and_that_is_reported_as_failing(carried_out):
    record = carried_out("downstream", quick=True)
    moved, rise, *_ = record.effects
    assert max(moved.values) < 0.7
    assert max(rise.values) < 0.9
    assert moved.verdict == rise.verdict == record.verdict == "does not hold here"


def test_networks_are_compared_at_an_equal_loss(carried_out):
    numbers = carried_out("downstream", quick=True).numbers
    losses = np.array([numbers.loss["with"], numbers.loss["without"]])
    goal = 0.1 * math.log(10)
    assert losses.max() <= goal
    assert losses.min() > 0.75 * goal


def test_larger_changes_move_more(carried_out):
    for key, curves in carried_out("downstream", quick=True).numbers.moved.items():
        if key != "with scale":
            assert np.min(np.diff(curves, axis=1)) > 0
