"""Steps to 95 %: at least five times fewer with normalization at the paper's setting."""

from __future__ import annotations

import math

from batchnorm.lab.questions.speed import Speed, _outcome


def test_speed_on_digits_is_at_least_five_times_with_every_seed(carried_out):
    record = carried_out("speed", quick=True)
    fewer = record.effects[0]
    assert record.verdict == "holds"
    assert record.numbers.goal == 0.95
    assert min(fewer.values) >= 5
    assert max(record.numbers.steps_normalized[0]) <= 150


def test_speed_where_one_network_never_arrives_is_a_lower_bound():
    outcome = _outcome(_speed(plain=(1000.0, math.inf, 1500.0)), 3)
    assert outcome.effects[0].values == (10.0, 30.0, 15.0)
    assert outcome.effects[0].note == "a lower bound: 1 of 3 never got there in 3,000 steps"
    assert outcome.finding.endswith("takes 100 steps, without more than 1,833: at least 18.3 times as many")


def test_speed_where_the_normalized_network_never_arrives_is_undecided():
    outcome = _outcome(_speed(normalized=(100.0, math.inf, 100.0)), 3)
    assert math.isnan(outcome.effects[0].mean)
    assert outcome.effects[0].verdict == "undecided"
    assert outcome.finding.endswith("takes more than 1,067 steps, without 1,000")


def _speed(normalized=(100.0, 100.0, 100.0), plain=(1000.0, 1000.0, 1000.0)) -> Speed:
    curve = ((0.5, 0.95),) * 3
    return Speed(0.95, 3000, (0.5,), (normalized,), (plain,), (5, 10), curve, curve)
